"""What a run may lose: the rate of rejects."""

import pytest

from pipeline.errors import RejectRateError
from pipeline.gather import inspect_block
from pipeline.watch.losses import LOOK_AFTER, Losses
from tests.blocks import block, pair, reject


def add(losses: Losses, embedded: int = 0, **rejects: int) -> None:
    rows = [pair("a", i) for i in range(embedded)]
    for reason, count in rejects.items():
        rows += [reject("a", i, reason) for i in range(count)]
    (part,) = inspect_block(block(*rows))[0]
    losses.add(part)
    losses.check()


def test_losses_end_a_run_with_the_rate_the_limit_and_the_top_reasons() -> None:
    losses = Losses(0.1, "laion")
    add(losses, 850, undecodable=80)
    with pytest.raises(RejectRateError) as told:
        add(losses, 0, truncated=110)
    assert str(told.value) == (
        "18.3% of the first 1040 pairs were rejected, more than --max-reject-rate 0.1 allows: truncated 110, "
        "undecodable 80; what was whole is committed, and laion_rejects has its rejects one by one"
    )


def test_losses_are_not_looked_at_before_a_thousand_pairs() -> None:
    losses = Losses(0.1, "laion")
    add(losses, 0, undecodable=LOOK_AFTER - 1)
    with pytest.raises(RejectRateError):
        add(losses, 1)


@pytest.mark.parametrize(("rejected", "ends"), [(100, False), (101, True)])
def test_losses_at_the_limit_are_allowed(rejected: int, ends: bool) -> None:
    losses = Losses(0.1, "laion")
    if ends:
        with pytest.raises(RejectRateError):
            add(losses, 1000 - rejected, undecodable=rejected)
    else:
        add(losses, 1000 - rejected, undecodable=rejected)


def test_losses_leave_out_what_was_never_downloaded() -> None:
    losses = Losses(0.1, "laion")
    add(losses, 999, not_downloaded=5000)
    assert losses.rejects == {"not_downloaded": 5000}
    add(losses, 0, undecodable=100)  # 100 of 1,099, whatever was not downloaded
    with pytest.raises(RejectRateError, match=r"of the first 1120 pairs .*: undecodable 121;"):
        add(losses, 0, undecodable=21)


def test_losses_name_five_reasons_at_most() -> None:
    losses = Losses(0.0, "laion")
    reasons = dict.fromkeys("abcdef", 200)
    with pytest.raises(RejectRateError, match=r"a 200, b 200, c 200, d 200, e 200, \.\.\.;"):
        add(losses, 0, **reasons)
