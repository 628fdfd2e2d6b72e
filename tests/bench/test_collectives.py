"""The reader of a program over a mesh reads loops and groups, and refuses what it can't count."""

import pytest

from jaxsoftmax.bench import Collective, UnreadableProgramError, device_work

LOOP = """
HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[8,4]{1,0} parameter(0)
  %y = bf16[4,16]{1,0} parameter(1)
  %product = f32[8,16]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %sums = (f32[], /*index=1*/f32[8]{0}) all-reduce(%a, %b), replica_groups=GROUPS, to_apply=%add
}

ENTRY %main (p: f32[8,4]) -> f32[] {
  %loop = (s32[], f32[8,4]) while(%t), condition=%add, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""
ALONG_ROWS = "{{0,1},{2,3}}"

NOTATIONS = {
    ALONG_ROWS: (1,),
    "{{0,2},{1,3}}": (0,),
    "{{0,1,2,3}}": (0, 1),
    "[2,2]<=[4]": (1,),
    "[2,2]<=[2,2]T(1,0)": (0,),
    "mesh['data'=2,'vocab'=2] {'vocab'}": (1,),
    "mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'b'}": (1,),
}


@pytest.mark.parametrize("notation", NOTATIONS)
def test_reader_counts_a_loop_as_often_as_it_turns_and_knows_who_speaks(notation):
    work = device_work(LOOP.replace("GROUPS", notation), (2, 2))
    assert work.flops == 5 * 2 * 8 * 16 * 4
    assert work.collectives == (Collective("all-reduce", 4 + 4 * 8, NOTATIONS[notation], 5),)


BOUNDED = """
%below (state: (s32[], f32[8,4])) -> pred[] {
  %bound = s32[] constant(7)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

ENTRY"""


def test_reader_takes_the_bound_of_a_counter_for_how_often_a_loop_turns():
    text = LOOP.replace("GROUPS", ALONG_ROWS).replace(', backend_config={"known_trip_count":{"n":"5"}}', "")
    bounded = text.replace("condition=%add", "condition=%below").replace("ENTRY", BOUNDED)
    assert [each.times for each in device_work(bounded, (2, 2)).collectives] == [7]


def test_collectives_of_one_device_are_none():
    assert device_work(LOOP.replace("GROUPS", "{{0},{1},{2},{3}}"), (2, 2)).collectives == ()


UNREADABLE = {
    "known_trip_count": "unknown_trip_count",
    ALONG_ROWS: "anyone",
    "all-reduce(": "all-reduce-start(",
    "body=%body": "branch_computations={%body}",
    "ENTRY": "",
}


@pytest.mark.parametrize("known", UNREADABLE)
def test_reader_refuses_what_it_cannot_count(known):
    with pytest.raises(UnreadableProgramError):
        device_work(LOOP.replace("GROUPS", ALONG_ROWS).replace(known, UNREADABLE[known]), (2, 2))
