"""The start-up line of a run."""

from moe_tune.tuner.router_tuner import RouterTuner


def start_up_line(tuner: RouterTuner) -> str:
    """Return what is trained, where, and how."""
    gated, again = tuner.gated, ""
    for split in tuner.stage_splits:
        tuner.examiner.settle(split)
    if tuner.base.gradient_checkpointing and "train" in tuner.examiner.answering.ways:
        why = "on" if tuner.recomputes else "has nothing to save on the answer path"
        again = f", gradient checkpointing {why}"
    trained = gated.trained_numbers
    own = {id(value) for head in gated.heads.values() for value in head.parameters()}
    own |= {id(value) for value in gated.trainable().values()}
    total = sum(value.numel() for value in gated.model.parameters() if id(value) not in own)
    asked = str(tuner.layer_choice).removeprefix("last-")
    fewer = f" (last-{asked}: it has no more)" if asked.isdecimal() and int(asked) > len(gated.gates) else ""
    text = f", {tuner.text_way.describe()}" if tuner.task != "quiz" and tuner.trainer.state.fn == "fit" else ""
    alone = f"; {line}" if (line := tuner.quiz.splits.alone_line) else ""
    known = tuner.quiz.not_out_of_distribution
    overlap = (
        f"; not out of distribution after {', '.join(sorted(set(known.values())))}: {', '.join(known)}" if known else ""
    )
    head = f"{gated.head_name}{' and a LoRA' if tuner.peft else ''}"
    return (
        f"trainable {trained:,} of {total:,} ({100 * trained / total:.4f} %), {len(gated.layers)} of "
        f"{len(gated.gates)} routers{fewer}, head {head}, scope {tuner.scope}, experts {tuner.opened.experts}, "
        f"routing {tuner.routing_dtype}, {tuner.examiner.answering.describe()}{text}{again}{alone}{overlap}"
    )
