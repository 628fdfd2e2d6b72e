"""Eight CPU devices, for the tests of meshes; all others run on the first."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
