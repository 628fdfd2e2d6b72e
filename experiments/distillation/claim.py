"""Distillation: a teacher's probabilities as float labels, at a temperature, with gradients to student and teacher.

The loss is T² C(z / T, softmax(v / T)) of a student's logits z and a teacher's v. Its gradients in float32 are judged
with 50 digits, also where student or teacher is sure; through both networks by differences in float64; and at high
temperature by their limit (z − v) / C (Hinton, Vinyals and Dean, 2015). Then small students learn scikit-learn's digits
from a few labels each, without and with a teacher's probabilities of the same digits.
"""

from functools import partial
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.progress import Progress
from rich.table import Table

from experiments.data.digits import CLASSES, standardised_digits
from experiments.distillation.chain import DIFFERENCE_TOLERANCE
from experiments.distillation.figure import distillation_figure
from experiments.distillation.findings import TEMPERATURE, Findings, Size, find
from experiments.distillation.gradients import LIBRARY, OPTAX, TOLERANCE_ULPS
from experiments.runner.experiment import Experiment, Options, Outcome

_FULL = Size(labelled=5, students=20, steps=300, temperatures=(1.0, 2.0, 4.0, TEMPERATURE, 16.0), stride=1.0)
_QUICK = Size(labelled=5, students=5, steps=120, temperatures=(1.0, TEMPERATURE), stride=6.0)


def measure(options: Options, progress: Progress) -> Outcome:
    """Judges the gradients, then trains the students."""
    size = _QUICK if options.quick else _FULL
    task = progress.add_task("parts", total=size.parts)
    return judge(find(standardised_digits(options.seed), size, options.seed, partial(progress.advance, task)))


def judge(found: Findings) -> Outcome:
    """Turns the findings into a verdict."""
    ours = [each for each in found.gradients if each.method == LIBRARY]
    furthest = float(np.max([list(errors.values()) for errors in found.differences.values()]))
    return Outcome(
        checks={
            "gradients in the student's logits, the teacher's probabilities and logits are accurate in float32": all(
                each.holds for each in ours
            ),
            "the gradient through both networks is that of differences": furthest <= DIFFERENCE_TOLERANCE,
            "at high temperature the gradient tends to (z − v) / C as 1 / T": found.limit.holds,
            "students do better with the teacher's probabilities of the same digits": found.students.better,
        },
        conclusion=[
            _on_gradients(found, max(each.worst_ulps for each in ours)),
            f"Gradients in the parameters of both networks are within {furthest:.0e} of central differences (allowed: "
            f"{DIFFERENCE_TOLERANCE:.0e}); the distance from (z − v) / C falls as T^{found.limit.slope:.3f}, in "
            f"float32 until T = {found.limit.best_float32:g}.",
            _on_students(found),
        ],
        measurements=_measurements(found),
        tables=[_gradient_table(found), _student_table(found)],
        figures={"distillation": distillation_figure(found)},
    )


def _on_gradients(found: Findings, worst: float) -> str:
    lost: dict[str, float] = {}
    for each in found.gradients:
        if each.method == OPTAX and each.lost_from is not None:
            lost[each.quantity] = min(each.lost_from, lost.get(each.quantity, np.inf))
    where = ", ".join(f"in the {quantity} from a gap of {gap:g}" for quantity, gap in lost.items()) or "nowhere"
    return (
        f"In float32 every entry of the gradients is within {worst:.1f} ulps of 50 digits (allowed: "
        f"{TOLERANCE_ULPS:.0f}); through optax and jax.nn an entry is more than half wrong {where}."
    )


def _on_students(found: Findings) -> str:
    students = found.students
    labels, taught, on_all = (
        100 * float(np.mean(each)) for each in (students.labels, students.taught[TEMPERATURE], students.taught_on_all)
    )
    return (
        f"{len(students.labels)} students with {CLASSES * found.size.labelled} labelled digits each name "
        f"{labels:.1f} % of the held-out digits; with the teacher's probabilities of the same digits at T = "
        f"{TEMPERATURE:g} {taught:.1f} %, {100 * np.mean(students.gain):.1f} ± {100 * students.gain_error:.1f} more "
        f"(mean and standard error; {np.sum(students.gain > 0)} are better); with those of all training digits "
        f"{on_all:.1f} %. The teacher names {100 * students.teacher:.1f} %."
    )


def _gradient_table(found: Findings) -> RenderableType:
    title = "Worst error of a gradient's entry in float32, against 50 digits"
    table = Table("gradient in", "the teacher is", "method", "ulps", "half wrong from gap", title=title)
    for each in found.gradients:
        lost = "nowhere" if each.lost_from is None else f"{each.lost_from:g}"
        table.add_row(each.quantity, each.teacher, each.method, f"{each.worst_ulps:.3g}", lost)
    return table


def _student_table(found: Findings) -> RenderableType:
    students = found.students
    table = Table("students learn from", "accuracy, %", "more, %", "standard error", "better", title="Held-out digits")
    rows = {"their labels": students.labels}
    rows |= {f"and the teacher of the same, T = {t:g}": each for t, each in students.taught.items()}
    rows |= {f"and the teacher of all, T = {TEMPERATURE:g}": students.taught_on_all}
    for name, accuracies in rows.items():
        gain = 100 * (accuracies - students.labels)
        error = np.std(gain, ddof=1) / np.sqrt(len(gain))
        figures = (f"{value:.1f}" for value in (100 * np.mean(accuracies), np.mean(gain), error))
        table.add_row(name, *figures, f"{np.sum(gain > 0)} of {len(gain)}")
    return table


def _measurements(found: Findings) -> dict[str, Any]:
    students, limit = found.students, found.limit
    return {
        "size": found.size._asdict(),
        "gradients": [
            {"in": each.quantity, "teacher": each.teacher, "method": each.method}
            | {"worst_ulps": each.worst_ulps, "half_wrong_from": each.lost_from}
            for each in found.gradients
        ],
        "differences": found.differences,
        "high_temperature": {"temperatures": limit.temperatures, "slope": limit.slope, "errors": limit.errors},
        "accuracies": {
            "teacher": students.teacher,
            "labels": students.labels,
            "taught": students.taught,
            "taught_on_all": students.taught_on_all,
        },
    }


EXPERIMENT = Experiment(
    "distillation",
    "A teacher's probabilities as labels have exact gradients, to student and teacher, and help the student.",
    measure,
)
