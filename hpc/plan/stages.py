"""The stores that each stage needs and the units that fill them; nothing is submitted here.

A stage is planned when the stages before it are sealed, because a store's identity holds the
digests of the seals it builds on. Planning twice gives the same stores.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from hpc.plan.compare import compare_plans
from hpc.plan.encode import encode_plans
from hpc.plan.extract import extract_plans, set_digest
from hpc.plan.prepare import prepare_plans
from hpc.plan.store_plan import StorePlan
from hpc.plan.subjects import Targets, check_fit
from hpc.study.resolved import Resolved, Subject
from hpc.study.study import Study
from jobs import spec as specs
from jobs.spec import Reference
from storage_schemas.kinds.responses import responses_layout


def all_plans(study: Study, resolved: Resolved, subjects: Sequence[Subject]) -> list[StorePlan]:
    """Plan every stage before anything runs, with placeholders for seals that do not exist yet.

    Counts what a study would run, and refuses what a later stage could not be planned with.

    Raises
    ------
    ValueError
        Naming the key of the study that does not fit the recordings.
    """
    targets = [Targets.of_subject(subject) for subject in subjects]
    check_fit(study, targets)
    sealed: defaultdict[str, Reference] = defaultdict(
        lambda: Reference(stage="planned", identity="planned", seal="planned")
    )
    plans = [
        *prepare_plans(study, resolved),
        *ingest_plans(resolved, subjects),
        *extract_plans(study, resolved, targets, sealed),
        *encode_plans(study, resolved, targets, sealed),
        *compare_plans(study, resolved, targets, sealed),
    ]
    _require_own_labels(plans)
    return plans


def _require_own_labels(plans: Iterable[StorePlan]) -> None:
    """Refuse two stores of one label: later stages find the stores that they use by it."""
    known: dict[tuple[str, str], StorePlan] = {}
    for plan in plans:
        first = known.setdefault((plan.stage, plan.label), plan)
        if first is not plan:
            raise ValueError(
                f"{_described(first)} and {_described(plan)} would both be called "
                f"{plan.stage}/{plan.label}; give one of them another name in the study"
            )


def _described(plan: StorePlan) -> str:
    names = ("model", "source", "bands", "subject", "modality")
    parts = [f"{name} {plan.attrs[name]}" for name in names if name in plan.attrs]
    return f"{plan.kind} of {', '.join(parts)}"


def ingest_plans(resolved: Resolved, subjects: Iterable[Subject]) -> Iterator[StorePlan]:
    """Plan stage ingest: one store per subject and modality."""
    digests = dict(zip(resolved.stimulus_ids, resolved.stimulus_digests, strict=True))
    for subject in subjects:
        targets = Targets.of_subject(subject)
        spec = specs.ResponsesSpec(
            reader=subject.reader,
            subject=targets.subject,
            options=subject.options,
            stimuli=set_digest(targets.stimuli, [digests[name] for name in targets.stimuli]),
            files=dict(subject.description.files),
        )
        yield StorePlan(
            "ingest",
            "responses",
            targets.label,
            spec,
            responses_layout(
                targets.stimuli,
                [digests[name] for name in targets.stimuli],
                targets.sessions,
                targets.coords,
                targets.dims,
                subject.ceiling,
            ),
            {"subject": targets.subject, "modality": targets.modality},
            {"responses": str(subject.folder), "stimuli": resolved.stimuli},
        )
