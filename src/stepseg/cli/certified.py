"""What a certificate says, in `result.json` and on the terminal."""

from rich.table import Table

from stepseg.cli.result import Result
from stepseg.model_config import ReductionConfig
from stepseg.telling import show_table
from stepseg.tuning.certificate import Certificate
from stepseg.tuning.sequence import STEPS, Tested


def publish(tested: Tested, result: Result) -> ReductionConfig:
    """Write and show all that was tested; returns the fastest that is certified.

    Raises:
        ValueError: none is.

    """
    certificate, fastest = tested.certificate, tested.fastest
    table = Table(title=_sentence(certificate))
    for column in ("strength", "GMACs", "changed, %", "value", ""):
        table.add_column(column, justify="right")
    rows = []
    for k, value in enumerate(certificate.values):
        row = {
            "strength": (k + 1) / STEPS,
            "gmacs_mean": tested.gmacs[k],
            "changed_mean": certificate.means[k],
            "value": value,
            "certified": k < certificate.certified,
        }
        rows.append(row)
        mark = "chosen" if k == fastest else "certified" if row["certified"] else ""
        shown = f"{row['strength']:.2f}", f"{row['gmacs_mean']:.3f}"
        table.add_row(*shown, f"{100 * row['changed_mean']:.3f}", f"{value:.2g}", mark)
    result.update({"certificate": tested.as_dict(), "sequence": rows})
    show_table(table)
    return tested.chosen


def _sentence(certificate: Certificate) -> str:
    """The promise in words."""
    share = f"at most {100 * certificate.alpha:g} % of all pixels change"
    if certificate.delta is None:
        return f"In the mean {share} ({certificate.n} images, conformal risk control)"
    return (
        f"With {100 * (1 - certificate.delta):g} % confidence {share} "
        f"({certificate.n} images, {certificate.bound})"
    )
