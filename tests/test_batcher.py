"""What waits is computed: joined, fair, bounded, and only for those who still wait."""

import asyncio
import threading
import time

import numpy as np
import pytest

from exporter import Batching
from exporter.serving.batcher import Batcher, Lane
from exporter.serving.company import Company
from exporter.serving.errors import ClosedError, OverloadedError
from exporter.serving.joining import Joining
from exporter.serving.waiting import Task, Waiting
from signatures import Signature, TensorSpec

SIGNATURE = Signature("f", {"x": TensorSpec(("batch", 1))}, {"y": TensorSpec(("batch", 1))})


class Model:
    """Doubles, when it is let to, and remembers the sizes of its batches."""

    def __init__(self, *, is_open=True):
        self.sizes = []
        self.gate = threading.Event()
        self.began = threading.Event()
        if is_open:
            self.gate.set()

    def __call__(self, arrays):
        self.began.set()
        assert self.gate.wait(10)
        (x,) = arrays
        self.sizes.append(len(x))
        if (x < 0).any():
            raise ValueError("negative")
        return [2 * x]


def made(model, *, max_rows=1000, delay=0.0, joins=True, is_pure=False, seen=None, **options):
    joining = Joining(SIGNATURE, "batch", Batching(**options)) if joins else None
    lane = Lane("f", model, joining, max_rows=max_rows, delay=delay, is_pure=is_pure)
    return Batcher("test", [lane], (seen if seen is not None else []).append), lane


def part(lane, *values):
    array = np.array(values, np.float32).reshape(-1, 1)
    if lane.joining is not None:
        return lane.joining.part([array])
    from exporter.serving.joining import Part

    return Part(None, 1, [array], {})


def run(body):
    return asyncio.run(asyncio.wait_for(body, 20))


async def call(batcher, lane, *values, client="one"):
    (future,) = batcher.submit("f", [part(lane, *values)], client)
    return (await future)[0].reshape(-1).tolist()


def test_what_waits_while_one_is_computed_is_one_batch():
    model = Model(is_open=False)
    seen = []
    batcher, lane = made(model, seen=seen)

    async def body():
        first = asyncio.ensure_future(call(batcher, lane, 1))
        await asyncio.to_thread(model.began.wait)
        others = [asyncio.ensure_future(call(batcher, lane, n, client=n)) for n in range(5)]
        await asyncio.sleep(0.05)
        model.gate.set()
        assert await first == [2]
        assert await asyncio.gather(*others) == [[2 * n] for n in range(5)]

    run(body())
    assert model.sizes == [1, 8]  # five rows in the next size that is compiled
    assert [(one.calls, one.rows, one.size) for one in seen] == [(1, 1, 1), (5, 5, 8)]
    batcher.close()


def test_a_batch_waits_for_company_only_if_it_is_told_to():
    model = Model()
    batcher, lane = made(model, delay=0.2)

    async def body():
        first = asyncio.ensure_future(call(batcher, lane, 1))
        await asyncio.sleep(0.02)
        second = asyncio.ensure_future(call(batcher, lane, 2))
        assert [await first, await second] == [[2], [4]]

    run(body())
    assert model.sizes == [2]
    batcher.close()


def test_only_the_call_that_is_to_blame_fails():
    model = Model(is_open=False)
    batcher, lane = made(model)

    async def body():
        first = asyncio.ensure_future(call(batcher, lane, 1))
        await asyncio.to_thread(model.began.wait)
        calls = [asyncio.ensure_future(call(batcher, lane, n)) for n in (3, -1, 4)]
        await asyncio.sleep(0.05)
        model.gate.set()
        await first
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [found[0], found[2]] == [[6], [8]]
        assert isinstance(found[1], ValueError)

    run(body())
    batcher.close()


def test_a_call_that_is_taken_back_is_not_computed():
    model = Model(is_open=False)
    batcher, lane = made(model)

    async def body():
        first = asyncio.ensure_future(call(batcher, lane, 1))
        await asyncio.to_thread(model.began.wait)
        gone = asyncio.ensure_future(call(batcher, lane, 7, 7, 7))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        model.gate.set()
        await first
        assert await call(batcher, lane, 2) == [4]

    run(body())
    assert model.sizes == [1, 1]
    batcher.close()


def test_no_more_waits_than_may():
    model = Model(is_open=False)
    batcher, lane = made(model, max_rows=3)

    async def body():
        first = asyncio.ensure_future(call(batcher, lane, 1))
        await asyncio.to_thread(model.began.wait)
        calls = [asyncio.ensure_future(call(batcher, lane, n)) for n in range(5)]
        await asyncio.sleep(0.02)
        model.gate.set()
        found = await asyncio.gather(first, *calls, return_exceptions=True)
        assert sum(isinstance(one, OverloadedError) for one in found) == 2

    run(body())
    batcher.close()


def test_one_that_is_closed_computes_what_it_took_and_takes_no_more():
    model = Model(is_open=False)
    batcher, lane = made(model)

    async def body():
        first = asyncio.ensure_future(call(batcher, lane, 1))
        await asyncio.to_thread(model.began.wait)
        second = asyncio.ensure_future(call(batcher, lane, 2))
        await asyncio.sleep(0.02)
        batcher.close()
        third = asyncio.ensure_future(call(batcher, lane, 3))
        await asyncio.sleep(0.02)
        model.gate.set()
        assert [await first, await second] == [[2], [4]]
        with pytest.raises(ClosedError):
            await third

    run(body())
    assert batcher.join(10)


def test_a_brief_batch_is_computed_on_the_loop_once_it_is_known_to_be_one():
    threads = []

    class Watched(Model):
        def __call__(self, arrays):
            threads.append(threading.current_thread())
            return super().__call__(arrays)

    batcher, lane = made(Watched(), is_pure=True)

    async def body():
        for n in range(20):
            assert await call(batcher, lane, n) == [2 * n]
            await asyncio.sleep(0.001)

    run(body())
    assert threads[0] is not threading.main_thread()
    assert threading.main_thread() in threads
    batcher.close()


def test_a_brief_batch_is_read_on_for_while_those_who_just_called_are_missing():
    seen = []
    batcher, lane = made(Model(), seen=seen, is_pure=True)

    async def later(n):
        await asyncio.sleep(1e-4)
        return await call(batcher, lane, n, client=n)

    async def body():
        for size in (1, 2) * 5:  # so that it is known how long each takes
            await asyncio.gather(*(call(batcher, lane, n, client=n) for n in range(size)))
        del seen[:]
        for _ in range(50):
            found = await asyncio.gather(call(batcher, lane, 0, client=0), later(1))
            assert found == [[0], [2]]

    run(body())
    together = sum(one.calls == 2 for one in seen)
    assert together > 25  # a machine that does something else may be late now and then
    batcher.close()


def test_who_called_a_moment_ago_is_expected_and_who_is_alone_waits_for_nobody():
    company = Company()
    assert not company.lacks({"one"})
    company.answered({"one"})
    assert not company.lacks({"one"})
    assert company.lacks({"other"})
    company.answered({"other"})
    assert company.lacks({"one"})
    assert not company.lacks({"one", "other"})
    time.sleep(0.02)
    assert not company.lacks(set())


def test_two_loops_have_their_own_answers():
    model = Model()
    batcher, lane = made(model)
    wrong = []

    def loop(start):
        async def body():
            numbers = range(start, start + 50)
            found = [await call(batcher, lane, n, client=start) for n in numbers]
            wrong.extend(n for n, one in zip(numbers, found, strict=True) if one != [2 * n])

        asyncio.run(body())

    threads = [threading.Thread(target=loop, args=(start,)) for start in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    batcher.close()


def test_clients_take_turns():
    async def body():
        loop = asyncio.get_running_loop()
        _, lane = made(Model())
        waiting = Waiting("f", 10_000)
        many = [Task(part(lane, n), loop.create_future(), "many") for n in range(1000)]
        for task in many:
            waiting.put([task])
        one = Task(part(lane, 7), loop.create_future(), "one")
        waiting.put([one])
        assert one in waiting.take(4)

    run(body())


def test_the_parts_of_a_call_are_let_in_together_or_not():
    async def body():
        loop = asyncio.get_running_loop()
        _, lane = made(Model())

        def tasks(*counts):
            return [Task(part(lane, *range(n)), loop.create_future(), "c") for n in counts]

        waiting = Waiting("f", 10)
        waiting.put(tasks(8, 8))  # more than may wait, but nothing else does
        with pytest.raises(OverloadedError):
            waiting.put(tasks(1))
        assert waiting.rows == 16
        while waiting:
            waiting.take(32)
        waiting.put(tasks(6))
        with pytest.raises(OverloadedError):
            waiting.put(tasks(2, 3))
        assert waiting.rows == 6

    run(body())
