import random
from collections import deque

import pytest

from postresponse.exceptions import TooManyTasks
from postresponse.work.gate import Gate


def test_who_comes_first_goes_first() -> None:
    gate: Gate[str] = Gate("mails", 1, 2)
    assert [gate.enter(who) for who in "abc"] == [True, False, False]
    with pytest.raises(TooManyTasks) as caught:
        gate.enter("d")
    assert (caught.value.bulkhead, caught.value.running, caught.value.waiting) == ("mails", 1, 2)
    assert "'mails' is full: 1 run and 2 wait" in str(caught.value)
    assert list(gate.leave()) == ["b"]
    assert list(gate.leave()) == ["c"]
    assert list(gate.leave()) == []
    assert gate.idle


def test_without_room_to_wait_the_next_one_is_refused_at_once() -> None:
    gate: Gate[str] = Gate("mails", 1, 0)
    assert gate.enter("a")
    with pytest.raises(TooManyTasks):
        gate.enter("b")


def test_who_gives_up_leaves_its_place_to_others() -> None:
    gate: Gate[str] = Gate("mails", 1, 1)
    gate.enter("a")
    gate.enter("b")
    assert gate.give_up("b")
    assert not gate.give_up("b")
    assert not gate.enter("c")
    assert list(gate.leave()) == ["c"]
    assert not gate.give_up("c")


def test_limits_change_while_some_run_and_some_wait() -> None:
    gate: Gate[str] = Gate("mails", 2, 9)
    assert [gate.enter(who) for who in "abcd"] == [True, True, False, False]
    assert list(gate.resize(1, 9)) == []
    assert list(gate.leave()) == []
    assert gate.running == 1
    assert list(gate.resize(3, 0)) == ["c", "d"]
    with pytest.raises(TooManyTasks):
        gate.enter("e")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_it_is_as_a_counter_and_a_queue_say(seed: int) -> None:
    choose = random.Random(seed)
    slots, room = choose.randint(1, 4), choose.randint(0, 5)
    gate: Gate[int] = Gate("any", slots, room)
    running: set[int] = set()
    waiting: deque[int] = deque()
    for number in range(500):
        what = choose.random()
        if what < 0.5:
            if len(running) < slots and not waiting:
                assert gate.enter(number)
                running.add(number)
            elif len(waiting) < room:
                assert not gate.enter(number)
                waiting.append(number)
            else:
                with pytest.raises(TooManyTasks):
                    gate.enter(number)
        elif what < 0.8 and running:
            running.remove(choose.choice(sorted(running)))
            admitted = [waiting.popleft()] if waiting and len(running) < slots else []
            assert list(gate.leave()) == admitted
            running.update(admitted)
        elif waiting:
            gone = choose.choice(list(waiting))
            waiting.remove(gone)
            assert gate.give_up(gone)
        assert (gate.running, list(gate.waiting)) == (len(running), list(waiting))
        assert gate.idle == (not running and not waiting)
