"""Batches: who shares one, and that sharing changes nothing."""

import threading
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from PIL import Image

from cora.detector import Detector
from cora.errors import ImageError, VocabularyError
from cora.predictor import EncodedImage, Predictor
from cora.service.encoded_images import EncodedImages
from cora.service.pictures import Picture, shrink
from cora.service.refusal import RefusedError
from cora.service.vocabularies import VocabularyCache
from cora.service.worker import CallJob, DetectJob, ModelWorker, Query
from tests.tolerances import assert_near

CAT = Query(classes=("cat", "dog"), score=0.0)
CUP = Query(classes=("cup",), score=0.0)


def pictures(tiny: Detector, sizes: Sequence[tuple[int, int]]) -> list[Picture]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for width, height in sizes:
        values = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        made.append(shrink(Image.fromarray(values.numpy()), tiny.preprocessor.resize))
    return made


def run(tiny: Detector, jobs: Sequence[DetectJob], *, max_batch: int = 8) -> list[int]:
    """Run jobs that are all there from the start; the sizes of the batches."""
    batches: list[int] = []
    worker = ModelWorker(
        detector=tiny, max_batch=max_batch, gather_s=0, on_batch=lambda count, seconds: batches.append(count)
    )
    worker.start()
    gate = threading.Event()
    worker.submit([CallJob(function=lambda detector: gate.wait(30)), *jobs])
    gate.set()
    worker.close()
    return batches


def test_equal_queries_of_similar_sizes_share_batches(tiny: Detector) -> None:
    alike = pictures(tiny, [(40, 40)] * 5)
    wide = pictures(tiny, [(60, 40)])
    jobs = [DetectJob(picture=picture, query=CAT) for picture in alike]
    jobs[2:2] = [DetectJob(picture=alike[0], query=CUP), DetectJob(picture=wide[0], query=CAT)]
    jobs.append(DetectJob(picture=alike[0], query=Query(classes=CAT.classes, score=0.1)))
    assert run(tiny, jobs, max_batch=4) == [4, 1, 1, 1, 1]
    assert all(job.future.done() for job in jobs)


def test_a_query_may_suppress_between_classes(tiny: Detector) -> None:
    (shrunk,) = pictures(tiny, [(64, 64)])
    names = (*CAT.classes, *CUP.classes)
    jobs = [DetectJob(picture=shrunk, query=Query(classes=names, score=0.0, class_agnostic=on)) for on in (False, True)]
    assert run(tiny, jobs) == [1, 1]
    every, apart = (job.future.result() for job in jobs)
    assert 0 < len(apart) < len(every)


def test_other_names_for_an_image_need_no_image_tower(tiny: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pictures(tiny, [(64, 64), (64, 64)])
    queries = (CAT, CUP, Query(classes=("lamp", "dog"), score=0.0))
    jobs = [DetectJob(picture=picture, query=query) for query in queries for picture in (one, other)]
    seen: list[int] = []
    see = Detector.see
    monkeypatch.setattr(Detector, "see", lambda network, batch: seen.append(len(batch)) or see(network, batch))
    run(tiny, jobs, max_batch=1)
    assert seen == [1, 1]
    for job in jobs:
        expected = Predictor(tiny).predict(job.picture.image, job.query.classes, score=0.0)
        found = job.future.result()
        assert len(found) > 0
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.boxes_xyxy_px, expected.boxes_xyxy_px)
        assert found.image is None


def test_encoded_images_are_bounded(tiny: Detector) -> None:
    images = [picture.image for picture in pictures(tiny, [(64, 64)] * 4)]
    predictor = Predictor(tiny)
    alone = cast(EncodedImage, EncodedImages(detector=predictor).get(images[0]))
    room = 2 * (alone.nbytes + 3 * 64 * 64)
    cache = EncodedImages(detector=predictor, room=room)
    made = [cache.get(image) for image in images[:2]]
    assert cache.get(images[0].copy()) is made[0]  # by content
    cache.get(images[2])
    assert len(cache) == 2
    assert cache.get(images[0]) is made[0]  # used last but one
    assert cache.get(images[1]) is not made[1]
    small = EncodedImages(detector=predictor, room=100)
    assert small.get(images[0]) is not small.get(images[0])
    assert len(small) == 0


def test_answers_do_not_depend_on_the_company(tiny: Detector) -> None:
    shrunk = pictures(tiny, [(40, 40), (200, 200), (64, 64)])
    jobs = [DetectJob(picture=picture, query=CAT) for picture in shrunk]
    assert run(tiny, jobs) == [3]
    for job, picture in zip(jobs, shrunk, strict=True):
        alone = DetectJob(picture=picture, query=CAT)
        run(tiny, [alone])
        found, expected = job.future.result(), alone.future.result()
        assert len(expected) > 0
        assert found.names == expected.names
        assert found.image_size == picture.size_hw
        assert found.image is None
        assert_near(found.scores, expected.scores)
        torch.testing.assert_close(found.boxes_xyxy_px, expected.boxes_xyxy_px, atol=1e-2, rtol=1e-4)


def test_boxes_are_those_of_the_picture_as_sent(tiny: Detector) -> None:
    image = Image.new("RGB", (400, 250), "green")
    image.paste("red", (50, 50, 200, 150))
    job = DetectJob(picture=shrink(image, tiny.preprocessor.resize), query=CAT)
    run(tiny, [job])
    expected = Predictor(tiny).predict(image, CAT.classes, score=0.0)
    assert job.future.result().image_size == (250, 400)
    torch.testing.assert_close(job.future.result().boxes_xyxy_px, expected.boxes_xyxy_px, atol=1e-2, rtol=1e-4)


def test_pictures_gather_while_the_first_waits(tiny: Detector) -> None:
    batches: list[int] = []
    worker = ModelWorker(detector=tiny, max_batch=2, gather_s=30, on_batch=lambda count, seconds: batches.append(count))
    worker.start()
    jobs = [DetectJob(picture=picture, query=CAT) for picture in pictures(tiny, [(40, 40)] * 2)]
    worker.submit(jobs[:1])
    worker.submit(jobs[1:])
    for job in jobs:
        job.future.result(timeout=20)  # a full batch does not wait for the 30 s to pass
    assert batches == [2]
    worker.close()


def test_one_bad_picture_does_not_spoil_the_batch(tiny: Detector) -> None:
    jobs = [DetectJob(picture=picture, query=CAT) for picture in pictures(tiny, [(40, 40)] * 3)]
    jobs[1].picture.image.close()
    run(tiny, jobs)
    assert isinstance(jobs[1].future.exception(), ImageError)
    assert len(jobs[0].future.result()) > 0
    assert len(jobs[2].future.result()) > 0


def test_bad_names_fail_alone(tiny: Detector) -> None:
    (picture,) = pictures(tiny, [(40, 40)])
    bad = DetectJob(picture=picture, query=Query(classes=("very " * 90,)))
    good = DetectJob(picture=picture, query=CAT)
    run(tiny, [bad, good])
    assert isinstance(bad.future.exception(), VocabularyError)
    assert good.future.exception() is None


def test_withdrawn_jobs_are_not_run_and_close_finishes_the_others(tiny: Detector) -> None:
    ran: list[int] = []
    worker = ModelWorker(detector=tiny)
    worker.start()
    gate = threading.Event()
    worker.submit([CallJob(function=lambda detector: gate.wait(30))])
    jobs = [CallJob(function=lambda detector, number=number: ran.append(number)) for number in range(4)]
    worker.submit(jobs)
    worker.withdraw(jobs[1:3])
    jobs[3].future.cancel()  # as a client does that goes away
    closing = threading.Thread(target=worker.close)
    closing.start()
    gate.set()
    closing.join(30)
    assert ran == [0]
    assert [job.future.cancelled() for job in jobs] == [False, True, True, True]
    with pytest.raises(RefusedError, match="stopping") as error:
        worker.submit(jobs)
    assert error.value.status == 503


class FixedNames:
    """Like an exported model whose names are in its graph: there is no text tower that could be bounded."""

    def __init__(self, detector: Detector) -> None:
        self.vocabulary_encoder = object()
        self.preprocessor = detector.preprocessor
        self.vocabulary = Predictor(detector).vocabulary
        self.predict = Predictor(detector).predict


def test_models_with_fixed_names(tiny: Detector) -> None:
    (picture,) = pictures(tiny, [(40, 40)])
    one, other = (DetectJob(picture=picture, query=CAT) for _ in range(2))
    run(tiny, [one])
    run(cast(Detector, FixedNames(tiny)), [other])
    torch.testing.assert_close(one.future.result().scores, other.future.result().scores)


def test_vocabularies_are_kept_while_in_use(tiny: Detector) -> None:
    cache = VocabularyCache(detector=Predictor(tiny), max_names=6)
    first = cache.get(("cat", "dog"), ())
    assert cache.get(("cat", "dog"), ()) is first
    assert cache.get(("cat", "dog"), ("tree",)) is not first
    assert cache.get(("cat", "dog"), ()) is first  # used later than the one with the tree
    cache.get(("cup",), ())
    cache.get(("bowl",), ())
    assert cache.get(("cat", "dog"), ()) is first
    assert len(cache) == 3
    for number in range(50):
        cache.get((f"name {number}",), ())
    assert len(cache) == 6
    assert len(tiny.vocabulary_encoder._memory) <= 7
    assert tiny.vocabulary_encoder.cache_dir is None  # what strangers name does not fill the disk
    torch.testing.assert_close(cache.get(("cat", "dog"), ()).embeddings, first.embeddings)


def test_class_weights_go_to_the_classes_that_a_query_names(tiny: Detector) -> None:
    cache = VocabularyCache(detector=Predictor(tiny), class_weights={"Red_Cup": 8.0, "dog": 2.0})
    weighted = cache.get(["cat", "red cup"], None).weights
    assert weighted is not None
    assert weighted.tolist() == [1.0, 8.0]
    assert cache.get(["cat"], None).weights is None
