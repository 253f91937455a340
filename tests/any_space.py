"""Any search space, small enough to build: what properties are tested on."""

from hypothesis import strategies as st

from supernet.space import FUSED, MBCONV, OperationSpace, SearchSpace, StageSpace


def ascending(*values: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.sampled_from(values), min_size=1).map(sorted).map(tuple)


def forms(operation: str) -> st.SearchStrategy[OperationSpace]:
    return st.builds(
        OperationSpace,
        name=st.just(operation),
        kernels=ascending(3, 5, 7),
        expansions=ascending(1, 2, 3),
        squeeze_excite=st.sampled_from([(False,), (True,), (False, True)]),
    )


STAGES = st.builds(
    StageSpace,
    stride=st.sampled_from([1, 2]),
    widths=ascending(4, 6, 8),
    depths=ascending(1, 2, 3),
    operations=st.one_of(
        st.tuples(forms(MBCONV)), st.tuples(forms(FUSED)), st.tuples(forms(MBCONV), forms(FUSED))
    ),
)
SPACES = st.builds(
    SearchSpace,
    name=st.just("any"),
    resolution=st.sampled_from([(8, 8), (8, 12), (13, 6)]),
    channels=st.sampled_from([1, 3]),
    classes=st.integers(2, 4),
    stem_stride=st.sampled_from([1, 2]),
    stem_widths=ascending(4, 6),
    head_widths=ascending(0, 6, 8),
    stages=st.lists(STAGES, min_size=1, max_size=3).map(tuple),
)
