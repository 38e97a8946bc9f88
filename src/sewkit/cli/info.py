"""`sewkit info`: what a model is and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sewkit.cli.options import BUNDLED, Architecture, Json, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from sewkit.checkpoint import LoadedModel

CLIP_SECONDS = 10


def info(
    model: Annotated[
        str, typer.Argument(help="Hub id, folder, .pt file, bundled name, or a published size such as sew-tiny.")
    ] = BUNDLED,
    architecture: Architecture = None,
    as_json: Json = False,
) -> None:
    """Show a model's shape, parameters, cost by stage, frame rate and operating points.

    Costs are multiply-accumulates (MACs) for each second of audio, in a clip of ten seconds; by stage at the dearest
    operating point.

    Example:  sewkit info sew-d-tiny
    """
    from sewkit.checkpoint import LoadedModel, load_model
    from sewkit.config import PUBLISHED
    from sewkit.model import build_shape

    if model in PUBLISHED:
        loaded = LoadedModel(build_shape(PUBLISHED[model]))
    else:
        loaded = load_model(model, architecture, exported=True)
    facts = describe(model, loaded)
    print_json(facts) if as_json else _print(facts)


def describe(name: str, loaded: LoadedModel) -> dict[str, Any]:
    """The facts that `info` shows, as plain JSON types."""
    from sewkit.audio import SAMPLE_RATE
    from sewkit.compute import macs, names_by_macs, operating_points
    from sewkit.lengths import hop_samples, receptive_field

    model, config = loaded.model, loaded.model.config
    costs = macs(config, CLIP_SECONDS * SAMPLE_RATE)
    by_point = {
        str(point): sum(macs(config, CLIP_SECONDS * SAMPLE_RATE, point).values()) // CLIP_SECONDS
        for point in operating_points(config)
    }
    curve = loaded.curve
    names = curve.names if curve else names_by_macs(config)
    hop = hop_samples(config.conv_layers)
    return {
        "name": name,
        "family": config.family,
        "parameters": model.num_parameters(),
        "parameters_by_stage": {
            stage: sum(p.numel() for p in child.parameters())
            for stage, child in model.named_children()
            if any(True for _ in child.parameters())
        },
        "macs_per_second": sum(costs.values()) // CLIP_SECONDS,
        "macs_per_second_by_stage": {stage: cost // CLIP_SECONDS for stage, cost in costs.items()},
        "frame_rate_hz": SAMPLE_RATE / hop,
        "encoder_rate_hz": SAMPLE_RATE / hop / config.squeeze_factor,
        "receptive_field_samples": receptive_field(config.conv_layers),
        "operating_points": list(by_point),
        "macs_per_second_by_point": by_point,
        "names": {name: str(point) for name, point in names.items()},
        "measured_curve": curve.model_dump(mode="json") if curve else None,
        "letters": len(loaded.alphabet) if loaded.alphabet else None,
        "labels": list(loaded.labels) if loaded.labels else None,
        "config": config.model_dump(mode="json"),
    }


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    shape = facts["config"]
    table = Table(title=f"{facts['name']}: {facts['family']}", show_header=False, title_justify="left")
    for row in (
        ("parameters", f"{facts['parameters'] / 1e6:.2f} M"),
        ("encoder", f"{shape['num_layers']} layers of width {shape['hidden_size']}, {shape['num_heads']} heads"),
        ("frames", f"{facts['frame_rate_hz']:g} Hz, inside the encoder {_rates(facts)} Hz"),
        ("head", _head(facts)),
    ):
        table.add_row(*row)
    stages = Table("stage", title="cost of a second of audio", title_justify="left")
    stages.add_column("MMAC", justify="right")
    stages.add_column("share", justify="right")
    for stage, cost in facts["macs_per_second_by_stage"].items():
        stages.add_row(stage, f"{cost / 1e6:,.1f}", f"{cost / facts['macs_per_second']:.0%}")
    stages.add_row("all", f"{facts['macs_per_second'] / 1e6:,.1f}", "")
    console = Console()
    for one in (table, stages, _points(facts)):
        console.print(one)


def _points(facts: dict[str, Any]) -> Table:
    """Operating points with their names, and their errors where they were measured."""
    from rich.table import Table

    curve = facts["measured_curve"]
    errors = {point["point"]: f"{point['wer']:.1%}" for point in curve["points"]} if curve else {}
    caption = f"WER on {', '.join(curve['data'])}" if curve else None
    points = Table(
        title="operating points, cheapest first", title_justify="left", caption=caption, caption_justify="left"
    )
    points.add_column("operating point", no_wrap=True)
    points.add_column("name")
    points.add_column("MMAC a second", justify="right")
    points.add_column("WER", justify="right")
    for point, cost in facts["macs_per_second_by_point"].items():
        names = ", ".join(name for name, named in facts["names"].items() if named == point)
        points.add_row(point, names, f"{cost / 1e6:,.1f}", errors.get(point, "not measured"))
    return points


def _rates(facts: dict[str, Any]) -> str:
    return ", ".join(f"{facts['frame_rate_hz'] / factor:.3g}" for factor in facts["config"]["squeeze_factors"])


def _head(facts: dict[str, Any]) -> str:
    if facts["letters"]:
        return f"CTC, {facts['letters']} letters"
    return f"classification, {len(facts['labels'])} labels" if facts["labels"] else "none"
