"""The card as Markdown: pure functions from what is known to text.

What is not known is left out, never guessed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stepseg import __version__
from stepseg.card.facts import BEFORE, main_figures
from stepseg.card.front_matter import front_matter
from stepseg.card.origin import accelerated_section, origin_of
from stepseg.card.tuned import tuned_section
from stepseg.checkpoint import Checkpoint
from stepseg.files.markdown import code, code_block, escape, table
from stepseg.model_config import ReductionConfig
from stepseg.reduction import KINDS
from stepseg.report.values import is_number
from stepseg.vit.licence import licence_of

CURVE = "the curve of the training"


def card_text(
    checkpoint: Checkpoint,
    name: str,
    pictures: Mapping[str, str],
    *,
    source: str = "model.safetensors",
    license_: str | None = None,
) -> str:
    """Write the whole card.

    Args:
        checkpoint: with facts of its training in `about`, if there are any.
        name: of the model.
        pictures: file names by what they show; the training curve under `CURVE`.
        source: what a reader loads: a file beside the card, or ``hf://user/name``.
        license_: an identifier of the hub.

    """
    sections = [
        f"# {escape(name)}\n\n{_summary(checkpoint)}",
        _loading(checkpoint, source),
        _systems(checkpoint),
        accelerated_section(checkpoint),
        tuned_section(checkpoint),
        _pictures(pictures),
        _classes(checkpoint),
        _model(checkpoint),
        "" if origin_of(checkpoint) else _training(checkpoint, pictures.get(CURVE)),
        _limits(checkpoint),
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"{front_matter(checkpoint, name, license_)}\n{body}\n"


def _summary(checkpoint: Checkpoint) -> str:
    data, figures = checkpoint.data, main_figures(checkpoint)
    what = f"{len(data['classes'])} classes ({escape(str(data['name']))})"
    origin = origin_of(checkpoint)
    by = f"; the weights are those of {origin}" if origin else ", trained with stepseg"
    text = (
        f"Semantic segmentation of {what} by a plain "
        f"Vision Transformer that merges superpatches and lets confident tokens leave early "
        f"([STEP](https://arxiv.org/abs/2509.14165)){by}."
    )
    if "mIoU" not in figures:
        return text
    images = checkpoint.about.get("images")
    where = f" on {escape(str(images))} validation images" if images else ""
    return f"{text} **{figures['mIoU']:.2f} mIoU**{where}."


def _loading(checkpoint: Checkpoint, source: str) -> str:
    example = f"""from stepseg.predict.segmenter import Segmenter

segmenter = Segmenter.from_checkpoint({json.dumps(source)})
prediction = segmenter.predict("photo.jpg")  # .labels, .overlay(), .picture("exits"), ..."""
    example = code_block(example, "python")
    command = f"stepseg-eval ckpt_path={source} data=... data.root=..."
    does = "repeats the figures below" if "mIoU" in main_figures(checkpoint) else "measures mIoU"
    return f"## Use\n\n{example}\n\n{code(command)} {does}."


def _systems(checkpoint: Checkpoint) -> str:
    rows = [r for r in checkpoint.about.get("systems") or [] if isinstance(r, dict)]
    if not rows:
        return ""
    columns = {
        "mIoU": "mIoU", "mAcc": "mAcc", "aAcc": "aAcc", "boundary IoU": "boundary_IoU",
        "same pixels": "agreement", "GMACs": "gmacs_mean", "images/s": "images_per_s",
        "speed-up": "speedup",
    }  # fmt: skip
    columns = {head: key for head, key in columns.items() if any(is_number(r, key) for r in rows)}
    lines = [["system", *columns, "tokens by stage"]]
    for row in rows:
        tokens = row.get("tokens_per_stage") or []
        shown = [f"{row[k]:.2f}" if is_number(row, k) else "" for k in columns.values()]
        lines.append([str(row["name"]), *shown, ", ".join(f"{count:.0f}" for count in tokens)])
    notes = ["Accuracy in percent; GMACs are multiply-accumulates."]
    if len(rows) > 1:
        notes.insert(0, "All rows share the weights.")
    if checkpoint.about.get(BEFORE):
        notes.append(
            "None is of the model's own reduction, which was chosen after they were taken."
        )
    step = rows[-1].get("validated_at")
    if step is not None:
        notes.append(f"Measured by the validation after step {step} of the training.")
    if checkpoint.about.get("timed_on"):
        where = checkpoint.about.get("hardware") or checkpoint.about["timed_on"]
        notes.append(f"Images per second: one at a time, from pixels to class ids, on {where}.")
    protocol = _protocol(checkpoint)
    return f"## Figures\n\n{table(lines)}\n\n{escape(' '.join(notes))}{protocol}"


def _protocol(checkpoint: Checkpoint) -> str:
    protocol = checkpoint.protocol
    if protocol is None:
        return ""
    spread = "evenly spread" if protocol.even else f"every {protocol.stride} pixels"
    shown = {"slide": f"in windows of {protocol.crop}, {spread}"}
    text = f" Images were shown {shown.get(protocol.mode, 'whole')}"
    if protocol.resize_short is not None:
        text += f", resized to {protocol.resize_short}"
    if protocol.scales != (1.0,):
        text += f", at scales {', '.join(map(str, protocol.scales))}"
    return f"{text}{', also mirrored' if protocol.flip else ''}."


def _pictures(pictures: Mapping[str, str]) -> str:
    shown = [f"![{what}]({file})" for what, file in pictures.items() if what != CURVE]
    if not shown:
        return ""
    return "## Examples\n\n" + "\n\n".join(shown)


def _classes(checkpoint: Checkpoint) -> str:
    data, scores = checkpoint.data, checkpoint.about.get("per_class_IoU") or []
    known = len(scores) == len(data["classes"])
    lines = [["id", "class", "colour", *(["IoU"] if known else [])]]
    for index, (name, colour) in enumerate(zip(data["classes"], data["palette"], strict=True)):
        cells = [str(index), name, "#" + "".join(f"{channel:02x}" for channel in colour)]
        if known:
            cells.append("never seen" if scores[index] is None else f"{scores[index]:.1f}")
        lines.append(cells)
    note = f"Pixels labelled {data['ignore_index']} count nowhere."
    return f"## Classes\n\n{table(lines)}\n\n{note}"


def _model(checkpoint: Checkpoint) -> str:
    config, reduction = checkpoint.config, checkpoint.config.reduction
    numbers = config.backbone.numbers()
    side = numbers.patch_size
    parameters = sum(v.numel() for v in checkpoint.state.values() if v.is_floating_point())
    pretrained = config.backbone.pretrained or "no (random weights, or a local file)"
    pretrained = origin_of(checkpoint) or pretrained
    rows = [
        ["part", "value"],
        ["backbone", f"{config.backbone.name}, {numbers.depth} blocks, patches of {side} pixels"],
        ["pretrained", pretrained],
        ["policy network", f"{config.policy.name}" if config.policy else "none"],
        ["merging", _merging(reduction)],
        ["exits", _exits(reduction)],
        ["parameters", f"{parameters / 1e6:.1f} million, policy and heads included"],
    ]
    return f"## Model\n\n{table(rows)}"


def _merging(reduction: ReductionConfig) -> str:
    rule, bound = reduction.merge, reduction.budget.gmacs_per_image
    parts = []
    if reduction.input.cell is not None:
        parts.append(f"the image shown smaller, {reduction.input.cell} pixels a patch")
    if rule is not None and rule.by == "uniform":
        parts.append(f"all windows of {_listed(rule.windows)} patches")
    elif rule is not None and rule.thresholds is None:
        counted = zip(rule.counts, rule.windows, strict=True)
        how = "drawn" if rule.by == "random" else "with the best scores"
        parts.append(
            _listed([f"{n} windows of {w} × {w} patches" for n, w in counted]) + f", {how}"
        )
    elif rule is not None and rule.thresholds is not None:
        pairs = zip(rule.windows, rule.thresholds, strict=True)
        scores = ", ".join(f"{w} × {w} above {t}" for w, t in pairs)
        drawn = "; as many are drawn" if rule.by == "random" else ""
        parts.append(f"windows of patches by their score: {scores}{drawn}")
    if reduction.inside is not None:
        parts.append(f"inside the blocks by {KINDS[reduction.inside.rule]}")
    if bound is not None:
        parts.append(f"thresholds moved until an image takes at most {bound:g} GMACs")
    return "; ".join(parts) or "none"


def _exits(reduction: ReductionConfig) -> str:
    rule = reduction.exit
    if rule is None or not rule.blocks:
        return "none"
    where = f"after block {_listed(rule.blocks)}"
    if rule.rule == "budget":
        return f"{where}, {_listed(rule.tokens)} tokens stay"
    return f"{where}, {rule.rule} above {rule.threshold}; {rule.keep_per_class} per class stay"


def _training(checkpoint: Checkpoint, curve: str | None) -> str:
    about = checkpoint.about
    recipe = about.get("recipe") or {}
    rows = [["setting", "value"], ["step of these weights", str(checkpoint.step)]]
    rows += [[name, str(value)] for name, value in recipe.items() if value is not None]
    for name in ("seed", "hardware"):
        if name in about:
            rows.append([name, str(about[name])])
    if "minutes" in about:
        rows.append(["minutes", f"{about['minutes']:g}, evaluation included"])
    if about.get("git_sha"):
        rows.append(["commit", str(about["git_sha"])])
    versions = about.get("versions") or {}
    if versions:
        rows.append(["versions", ", ".join(f"{k} {v}" for k, v in versions.items())])
    parts = ["## Training", table(rows)]
    if about.get("command"):
        parts.append(code_block(str(about["command"]), "bash"))
    if curve:
        parts.append(f"![{CURVE}]({curve})")
    return "\n\n".join(parts)


def _limits(checkpoint: Checkpoint) -> str:
    data, about = checkpoint.data, checkpoint.about
    lines = [
        f"The model knows the {len(data['classes'])} classes above and names one of them for every "
        "pixel, also where none is right.",
        "What it says about images unlike its training images has not been measured.",
    ]
    if data["name"] in ("synthetic", "drives"):
        lines.append("It has seen generated scenes only and is of no use on photographs.")
    if about.get("images"):
        lines.append(
            f"The figures come from {about['images']} images and one training; the best of its "
            "checkpoints was chosen on the same images."
        )
    scores = about.get("per_class_IoU") or []
    poor = [c for c, s in zip(data["classes"], scores, strict=False) if s is not None and s < 10]
    if poor:
        lines.append(f"Hardly learned (IoU below 10): {', '.join(poor)}.")
    lines.append("The licence of the training data applies beside that of the code.")
    pretrained = checkpoint.config.backbone.pretrained
    if licence := licence_of(pretrained):
        lines.append(f"So does that of {pretrained}, whose weights it began with: {licence}.")
    listed = "\n".join(f"- {escape(line)}" for line in lines)
    return f"## Limits\n\n{listed}\n\nWritten by stepseg {__version__}."


def _listed(values: Sequence[Any]) -> str:
    words = [str(value) for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
