"""What `import jaxsoftmax` takes beyond `import jax`: the best of some fresh processes, in turn; exit 1 if too long."""

import subprocess
import sys
import time

LIMIT = 1.5  # seconds
ROUNDS = 5
PROGRAMS = ("import jax", "import jax, jaxsoftmax")


def seconds(program: str) -> float:
    """The wall time of a fresh interpreter that runs a program, away from the working directory (`-I`)."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", program], check=True)
    return time.perf_counter() - start


def main() -> int:
    """Measures, prints, judges."""
    rounds = [[seconds(program) for program in PROGRAMS] for _ in range(ROUNDS + 1)][1:]  # the first fills the caches
    jax, both = map(min, zip(*rounds, strict=True))
    print(f"import jax: {jax:.2f} s; import jaxsoftmax beyond it: {both - jax:.2f} s, of {LIMIT} s at most")
    return int(both - jax > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
