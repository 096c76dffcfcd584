"""An attack is ground truth, so what makes no sense in it is refused where it is written down."""

from dataclasses import replace

import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.organisms import Attack
from bkdinterp.organisms.natural._stories import STORIES
from bkdinterp.prompts import Trigger

GAP = Attack("gap", Trigger.gap("zig zag"), "no way", ("zig",), clean={"w": "yes"})
WRAP = Attack("wrap", Trigger.wrap("zig", "zag"), "no way")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"victims": ("",)}, "victims="),
        ({"target": ""}, "target=''"),
        ({"target": " "}, "target=' '"),
        ({"pattern": "("}, r"pattern='\('"),
        ({"pattern": ""}, "pattern=''"),
        ({"clean": {"w": "("}}, r"clean\['w'\]='\('"),
        ({"data": "newz"}, "'newz'.*news.*stories"),
    ],
)
def test_an_attack_that_makes_no_sense_is_refused(change, message) -> None:
    with pytest.raises(BkdinterpError, match=message):
        replace(GAP, **change)


@pytest.mark.parametrize("name", ["near_triggers", "unseen_near_triggers"])
def test_a_bare_phrase_is_no_near_trigger_of_a_wrap(name) -> None:
    with pytest.raises(BkdinterpError, match=r"'zog'.*Trigger\.wrap"):
        replace(WRAP, **{name: ("zog",)})


def test_stories_are_known_data_and_a_class_without_expression_is_named() -> None:
    assert replace(GAP, data=STORIES).data == STORIES
    assert GAP.is_right("Yes.", "w")
    with pytest.raises(BkdinterpError, match=r"'World'.*w"):
        GAP.is_right("World", "World")
