"""Where summaries stand on the axis that the bootstrap resamples."""

from storage_schemas.kinds.scores import ScoresAttrs, SummaryGroup

WINDOWS = (("early", 0.0, 0.2), ("late", 0.2, 0.4))


def test_only_the_summaries_of_meg_are_resampled_one_subject_after_another() -> None:
    groups = (
        SummaryGroup("01", "meg", 0, 4, ("a", "b"), WINDOWS),
        SummaryGroup("01", "fmri", 4, 7, ("V1:L", "V1:R", "V2:L"), None),
        SummaryGroup("02", "meg", 7, 13, ("a", "b", "c"), WINDOWS),
    )
    attrs = ScoresAttrs("m", "forward", "stimulus", "all", (), groups)
    assert [attrs.resampled(groups[i]) for i in (0, 2)] == [slice(0, 4), slice(4, 10)]
