"""Two processes train what one would: the same weights up to rounding, and both the same ones bit for bit."""

import json
import math
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.adaptation import ka
from helpers.forked import alive, children, wait_until
from helpers.label_assistance import CODES, assisted
from helpers.ports import free_port
from helpers.tiny import (
    CLASSES,
    CPU,
    SKD,
    StillNorm,
    copied,
    differing,
    distillation,
    one_batch,
    optim,
    scenes,
    source,
    tiny,
    train,
    with_sgd_critic,
)
from helpers.trainings import Listener, a_job, camvid, configuration, terminate, untrained_teacher
from segdistill.checkpoints.model_file import load_model
from segdistill.errors import ResourceError, Stopped, UsageError
from segdistill.evaluation.evaluate import evaluate, gather_scores
from segdistill.networks import InferenceWrapper
from segdistill.runtime import distributed, lost_peers
from segdistill.storage.run_folder import NullRunFolder, open_run
from segdistill.teachers.label_assisted import LabeledFrozen
from segdistill.terms import Weighted
from segdistill.terms.channel import Channel
from segdistill.training.engine import Report
from segdistill.training.jobs import Runtime
from segdistill.training.objectives import Distillation, LabelAssisted
from segdistill.training.state import TrainModule
from segdistill.training.trainer import train as train_job
from segdistill.types import IGNORE, Batch, Objective, Stage

WORLD = 2
STEPS = 10
Result = dict[str, Any]


def trained(
    batches: Iterator[Batch],
    steps: int,
    *,
    norm: Callable[[int], nn.Module] = StillNorm,
    weights: dict[str, float] | None = None,
    loss: str = "wgan-gp",
    aux_weight: float = 0.4,
    **options: Any,
) -> Result:
    """Train the same networks as everyone."""
    student, teacher = tiny(0, norm=norm), tiny(1, width=10)
    return fitted(student, distillation(student, teacher, weights, loss, aux_weight), batches, steps, **options)


def by_knowledge_adaptation(batches: Iterator[Batch], steps: int) -> Result:
    """Train with ka's terms, whose auto-encoder is as it was drawn, and whose adapters do not couple the images."""
    student, teacher = tiny(0, norm=StillNorm), tiny(1, width=10)
    objective, terms = ka(student, teacher)
    for term in terms:
        for name, module in list(term.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                term.set_submodule(name, StillNorm(module.num_features))
    return fitted(student, objective, batches, steps, lr=0.005)


def under_an_assisted_teacher(batches: Iterator[Batch], steps: int) -> Result:
    """Train with lad's term."""
    student = tiny(0, norm=StillNorm)
    terms = {"channel": Weighted(3.0, Channel(4.0))}
    return fitted(student, Distillation(0.02, LabeledFrozen(assisted(1), CODES), terms), batches, steps)


def assisted_teacher(batches: Iterator[Batch], steps: int) -> Result:
    """Train a teacher of lad."""
    return fitted(assisted(0), LabelAssisted(0.4, CODES, len(CLASSES)), batches, steps, lr=0.01)


def fitted(model: nn.Module, objective: Objective, batches: Iterator[Batch], steps: int, **options: Any) -> Result:
    """Train; return all tensors and each step's terms, averaged over the processes."""
    with_sgd_critic(objective)
    terms: list[dict[str, float]] = []

    def note(report: Report) -> None:
        terms.append(distributed.all_reduce_mean_dict(report.terms))

    reports = train(Stage("student", model, objective, optim(steps, **options)), batches, note)
    state = reports[-1].training.state()
    momenta = {
        f"{optimizer}.{i}": moments["momentum_buffer"]
        for optimizer in ("optimizer", "critic_optimizer")
        for i, moments in (state[optimizer] or {"state": {}})["state"].items()
    }
    return {"tensors": copied(TrainModule(model, objective)), "momenta": momenta, "terms": terms}


def mine(**options: Any) -> dict[str, Any]:
    return {"rank": distributed.rank(), "world": distributed.world_size(), **options}


def half_without_labels(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Take the labels of the last two of a step's four images: of all that the second of two processes sees."""
    for batch in batches:
        label = batch.label.clone()
        label[max(0, 2 - distributed.rank() * len(label)) :] = IGNORE
        yield batch._replace(label=label)


def broken_here(batches: Iterator[Batch], rank: int, step: int) -> Iterator[Batch]:
    """Give one process images that are not finite, in one step."""
    for number, batch in enumerate(batches):
        broken = distributed.rank() == rank and number == step
        yield batch._replace(image=batch.image / 0) if broken else batch


def equal_to_one_process() -> dict[str, Result]:
    """Return what is the same however many processes there are."""
    crop = (32, 32)
    return {
        "all terms": trained(scenes(STEPS, 4, crop, **mine()), STEPS),
        "accumulated": trained(scenes(2, 4, crop, **mine(accumulate=2)), 2, accumulate=2),
        "hinge": trained(scenes(2, 4, crop, **mine()), 2, loss="hinge"),
        "one half without labels": trained(
            half_without_labels(scenes(3, 4, **mine())), 3, weights=SKD | {"holistic": 0, "boundary": 1.0}
        ),
        "ka": by_knowledge_adaptation(scenes(STEPS, 4, **mine()), STEPS),
        "ka, one half without labels": by_knowledge_adaptation(half_without_labels(scenes(3, 4, **mine())), 3),
        "lad": under_an_assisted_teacher(scenes(STEPS, 4, **mine()), STEPS),
        "lad, one half without labels": under_an_assisted_teacher(half_without_labels(scenes(3, 4, **mine())), 3),
        "lad's teacher": assisted_teacher(scenes(STEPS, 4, **mine()), STEPS),
        "plain, no weight on the auxiliary head": trained(scenes(3, 4, **mine()), 3, weights={}, aux_weight=0),
    }


def of_several_processes() -> dict[str, Result]:
    """Return what depends on there being two."""
    batch_norm: dict[str, Any] = {"norm": nn.BatchNorm2d, "weights": {"pixel": 10.0, "pairwise": 10.0}}
    broken = broken_here(scenes(3, 4, **mine()), rank=1, step=1)
    return {
        "batch norm": trained(scenes(1, 4, **mine()), 1, **batch_norm),
        "batch norm, one process not finite in the second of three steps": trained(broken, 3, **batch_norm),
    }


def stopped_and_continued(folder: Path) -> Result:
    """Train twice, once stopped by a signal to the second process and continued; return both states and the exit."""

    def run(name: str, *, resume: bool = False, stop_at: int = 0) -> tuple[dict[str, Tensor], int]:
        job, path = a_job(configuration()), folder / name
        place = Runtime(CPU.device, CPU, 0, Listener(at=stop_at, action=terminate))
        opened = (
            open_run(path, resume=resume, overwrite=False) if distributed.is_main() else nullcontext(NullRunFolder())
        )
        with opened as own:
            try:
                train_job(job, own or NullRunFolder(), place, resume=resume, command="again")
            except Stopped as error:
                return {}, error.exit_code
        return copied(TrainModule(job.network, job.stage.objective)), 0

    whole, _ = run("whole")
    _, code = run("cut", stop_at=4 if distributed.rank() == 1 else 0)
    files = []
    if distributed.is_main():
        files = sorted(path.name for path in folder.rglob("*") if path.is_file())
        (folder / "cut/config.toml").touch()
    cut, _ = run("cut", resume=True)
    return {"whole": whole, "cut": cut, "exit": code, "files": files}


def small_things() -> Result:
    """Return what the functions of `distributed` give in this process."""
    rank = distributed.rank()
    tensors = [torch.tensor([1.0 + rank, 5.0]), torch.full((2, 2), float(rank)).T]
    distributed.all_reduce_mean(tensors)
    label = torch.full((1, 2, 2), IGNORE)
    label.view(-1)[: 1 + 2 * rank] = 0  # 1 valid pixel here, 3 there
    batch = Batch(torch.zeros(1, 3, 2, 2), label, ("a",), torch.zeros(1))
    data = source(val=3).split("val")
    network, images = InferenceWrapper(tiny(0)), [data.read(i) for i in range(rank, 3, WORLD)]
    part = (
        Batch(
            torch.from_numpy(i.image).permute(2, 0, 1)[None].float(),
            torch.from_numpy(i.label)[None].long(),
            (),
            torch.zeros(1),
        )
        for i in images
    )
    scores = gather_scores(evaluate(network, part, 3), CPU.device)
    return {
        "average": tensors,
        "share": distributed.global_mean_weight(batch, lambda part: (part.label != IGNORE).sum()).item(),
        "sum": distributed.all_reduce_sum(torch.tensor(rank + 1)).item(),
        "mean": distributed.all_reduce_mean_dict({"a": torch.tensor(rank + 1.0), "b": torch.tensor(4.0)}),
        "any": [distributed.all_reduce_any(rank == chosen, CPU.device) for chosen in (0, 1, 7)],
        "each": scores.per_image,
        "same": distributed.broadcast_object({"rank": rank}),
        "main": distributed.is_main(),
        "scores": {"confusion": scores.confusion, "images": scores.images, "ignored": scores.ignored_pixels},
    }


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed.process_group(CPU.device):
        results = {"equal": equal_to_one_process(), "several": of_several_processes(), "small": small_things()}
        results["stopped"] = stopped_and_continued(Path(folder) / "runs")
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what two processes brought home."""
    folder = tmp_path_factory.mktemp("processes")
    port, context = free_port(), multiprocessing.get_context("spawn")
    processes = [context.Process(target=worker, args=(rank, port, str(folder)), daemon=True) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Result]:
    return equal_to_one_process()


def test_two_processes_equal_one_in_every_term_and_every_tensor(
    both: list[dict[str, Any]], alone: dict[str, Result]
) -> None:
    for name, one in alone.items():
        two = both[0]["equal"][name]
        assert len(one["terms"]) == len(two["terms"])
        for step, (first, second) in enumerate(zip(one["terms"], two["terms"], strict=True)):
            assert second == pytest.approx(first, rel=1e-5, abs=1e-6), f"{name}, step {step}"
        for key, tensor in one["tensors"].items():
            difference = (two["tensors"][key] - tensor).abs().max()
            assert difference <= 1e-5 * tensor.abs().max().clamp(min=1), f"{name}, {key}: {difference}"
    assert {"critic", "cross_entropy", "aux", *SKD} == set(alone["all terms"]["terms"][0])


def test_both_processes_hold_the_same_bits(both: list[dict[str, Any]]) -> None:
    first, second = ({**results["equal"], **results["several"]} for results in both)
    assert len(first) == 12
    for name, result in first.items():
        for kind in ("tensors", "momenta"):
            assert not differing(result[kind], second[name][kind]), name
        assert str(result["terms"]) == str(second[name]["terms"]), name  # nan is not equal to itself


def test_batch_norm_statistics_are_the_mean_of_both_processes(both: list[dict[str, Any]]) -> None:
    network, batch = tiny(0), one_batch(4)
    with torch.no_grad():
        seen = network.first[0]((batch.image - network.mean) / network.std)
    variances = torch.stack([half.transpose(0, 1).flatten(1).var(1) for half in seen.chunk(2)])
    tensors = both[0]["several"]["batch norm"]["tensors"]
    torch.testing.assert_close(tensors["model.first.1.running_mean"], 0.1 * seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        tensors["model.first.1.running_var"], 0.9 + 0.1 * variances.mean(0), rtol=1e-4, atol=1e-6
    )


@pytest.mark.promise("R5")
def test_nonfinite_step_in_one_process_is_skipped_in_both(both: list[dict[str, Any]]) -> None:
    result = both[0]["several"]["batch norm, one process not finite in the second of three steps"]
    finite = [math.isfinite(terms["cross_entropy"]) for terms in result["terms"]]
    assert finite == [True, False, True]
    assert all(tensor.isfinite().all() for tensor in result["tensors"].values())
    assert result["tensors"]["model.first.1.num_batches_tracked"] == 2


@pytest.mark.promise("R1")
def test_signal_to_one_process_stops_both_and_both_resume(both: list[dict[str, Any]]) -> None:
    for results in both:
        stopped = results["stopped"]
        assert stopped["exit"] == 143
        assert not differing(stopped["whole"], stopped["cut"])
        assert not differing(stopped["whole"], both[0]["stopped"]["whole"])
    of_both = [".lock", "best", "last", "last.prev", "metrics.jsonl"]
    assert both[0]["stopped"]["files"] == sorted([*of_both, *of_both, "model.safetensors"])


def test_reductions_cover_both_processes(both: list[dict[str, Any]]) -> None:
    first, second = (results["small"] for results in both)
    for small in (first, second):
        assert [tensor.tolist() for tensor in small["average"]] == [[1.5, 5.0], [[0.5, 0.5], [0.5, 0.5]]]
        assert small["sum"] == 3
        assert small["mean"] == {"a": 1.5, "b": 4.0}
        assert small["any"] == [True, True, False]
        assert small["same"] == {"rank": 0}
    # 1 and 3 of 4 valid pixels: averaged over the two processes, mean * share is the mean over all four
    assert (first["share"], second["share"]) == (2 * 1 / 4, 2 * 3 / 4)
    assert (first["main"], second["main"]) == (True, False)


def test_scores_are_those_of_all_images_in_every_process(both: list[dict[str, Any]]) -> None:
    data = source(val=3).split("val")
    samples = [data.read(i) for i in range(3)]
    whole = Batch(
        torch.stack([torch.from_numpy(s.image).permute(2, 0, 1).float() for s in samples]),
        torch.stack([torch.from_numpy(s.label).long() for s in samples]),
        (),
        torch.zeros(3),
    )
    scores = evaluate(InferenceWrapper(tiny(0)), [whole], 3)
    for results in both:
        found = results["small"]["scores"]
        assert torch.equal(found["confusion"], scores.confusion)
        assert (found["images"], found["ignored"]) == (3, scores.ignored_pixels)
        assert all(map(torch.equal, results["small"]["each"], scores.per_image))


# One process


def test_reductions_of_one_process_change_nothing() -> None:
    tensor = torch.tensor([1.0, 2.0])
    distributed.all_reduce_mean([tensor])
    distributed.barrier()
    assert tensor.tolist() == [1, 2]
    assert distributed.all_reduce_sum(tensor) is tensor
    assert [distributed.all_reduce_any(flag, CPU.device) for flag in (True, False)] == [True, False]
    assert distributed.broadcast_object("x") == "x"
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)


def test_micro_batch_is_weighted_by_its_share_of_valid_pixels() -> None:
    def labeled(valid: int) -> Tensor:
        label = torch.full((1, 4, 4), IGNORE)
        label.view(-1)[:valid] = 1
        return label

    def share(own: int, *others: int) -> float:
        image, seeds = torch.zeros(1, 3, 4, 4), torch.zeros(1)
        parts = tuple(Batch(image, labeled(valid), ("a",), seeds) for valid in (own, *others))
        batch = parts[0]._replace(parts=parts)
        return distributed.global_mean_weight(batch, lambda part: (part.label != IGNORE).sum()).item()

    assert share(5) == 1
    assert (share(1, 3), share(3, 1)) == (0.5, 1.5)
    assert share(4, 4, 8) == 0.75
    assert share(0, 4) == 0
    assert share(0, 0) == 0


def test_torchrun_processes_use_the_gpu_of_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1000")
    assert distributed.local_device(CPU.device) == CPU.device
    with pytest.raises(UsageError, match="Process 1000 of this machine has no GPU"):
        distributed.local_device(torch.device("cuda"))


# The command line under torchrun


def test_torchrun_writes_one_run_that_loads(tmp_path: Path) -> None:
    camvid(tmp_path / "camvid")
    untrained_teacher(tmp_path / "teacher.safetensors")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(WORLD)),
            *("--master-port", str(free_port()), "-m", "segdistill", "distill", "--preset", "skd", "--json"),
            *("--student", "pspnet-resnet18-half", "--teacher", "teacher.safetensors", "--data", "camvid:camvid"),
            *("--steps", "3", "--workers", "1", "--device", "cpu", "--precision", "fp32", "--out", "run"),
            "--accept-teacher",
            *("--set", "data.size=[48, 64]", "--set", "data.crop=[32, 32]", "--set", "data.batch_size=4"),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "2 processes" in done.stderr
    assert done.stderr.count("student step 3: mIoU") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["camvid", "run", "teacher.safetensors"]
    assert [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()] == [3, 3]
    network, info = load_model(tmp_path / "run/model.safetensors")
    assert info.metrics["miou"] == result["results"]["distilled"]["miou"]
    assert not network.training


# Processes that do not fit together, or lose each other


def start_ranks(cwd: Path, *lines: str) -> list[subprocess.Popen[str]]:
    """Start one process for each command line, as torchrun would, but with nobody to look after them."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(lines))}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "segdistill", *line.split()],
            cwd=cwd,
            env=os.environ | address | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, line in enumerate(lines)
    ]


def ended(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    return [(rank.returncode, err) for rank, (_, err) in ((rank, rank.communicate(timeout=300)) for rank in ranks)]


TEACHER = "train-teacher --preset skd --teacher resnet18-half --steps 400 --workers 1 --device cpu --precision fp32 "
TEACHER += "--set data.size=[32,32] --set data.crop=[32,32] --set data.batch_size=4 --out run"


@pytest.mark.slow
@pytest.mark.promise("D13", "C5")
@pytest.mark.parametrize(
    ("other", "code", "expected"),
    [
        ("--data camvid:one --set optim.lr=0.5", 2, "Process 1 was given other settings than process 0: optim."),
        ("--data camvid:two", 3, "Process 1 reads other images or label maps than process 0"),
        ("--data camvid:three", 3, "Process 1 sees other data than process 0"),
    ],
)
def test_processes_with_different_settings_refuse_to_start(
    other: str, code: int, expected: str, tmp_path: Path
) -> None:
    for name, shade in (("one", 0), ("two", 1), ("three", 0)):
        image = camvid(tmp_path / name) / "train/train0.png"
        pixels = np.asarray(Image.open(image)).copy()
        pixels[0, 0] = shade
        Image.fromarray(pixels).save(image, compress_level=0)  # of the same size, whatever the pixels
    (tmp_path / "three/train/train3.png").unlink()
    (tmp_path / "three/trainannot/train3.png").unlink()
    results = ended(start_ranks(tmp_path, f"{TEACHER} --dry-run --data camvid:one", f"{TEACHER} --dry-run {other}"))
    assert [result[0] for result in results] == [code, code], results
    assert expected in results[0][1]
    assert "Process" not in results[1][1], "one of them tells it"


PATIENT = """
import time
from datetime import timedelta
import torch
from segdistill.runtime import distributed, lost_peers
from segdistill.errors import DataError, SegdistillError
distributed.TIMEOUT, distributed.HEARTBEAT_SECONDS = timedelta(seconds=2), 0.3
def work(seconds, failure=None):
    time.sleep(seconds)
    if failure:
        raise failure
    return distributed.rank()
with distributed.process_group(torch.device("cpu")):
    own = distributed.rank()
    print(distributed.run_on_all(lambda: work(5 * own)), distributed.run_on_all(lambda: work(5 - 5 * own)))
    for failing in (0, 1):
        try:
            distributed.run_on_all(lambda: work(0, DataError("bad") if own == failing else None))
        except DataError as error:
            print(error.what, error.told_by_another)
    try:
        distributed.run_on_main(lambda: work(0, DataError("refused")))
    except DataError as error:
        print(error.what, error.told_by_another)
"""


@pytest.mark.slow
def test_process_that_works_longer_than_the_timeout_says_so() -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PATIENT],
            env=os.environ | address | {"RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for rank, elsewhere in zip(ranks, (False, True), strict=True):
        out = rank.communicate(timeout=120)[0].splitlines()
        told = [f"bad {elsewhere}", f"Process 1: bad {elsewhere}", f"refused {elsewhere}"]
        assert out == ["[0, 1] [0, 1]", *told]


def test_lost_connection_names_the_dead_process(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(lost_peers, "_peers", [(platform.node(), os.getpid()), (platform.node(), gone.pid)])
    said = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"
    with (
        pytest.raises(ResourceError, match="process 1 is dead") as caught,
        lost_peers.explain_lost_peers("segdistill again"),
    ):
        raise RuntimeError(said)
    assert "Continue with: segdistill again" in caught.value.fix
    with pytest.raises(RuntimeError, match="another reason"), lost_peers.explain_lost_peers():
        raise RuntimeError("another reason")


@pytest.mark.reliability
@pytest.mark.promise("R2")
def test_killed_process_is_named_and_the_resume_command_given(tmp_path: Path) -> None:
    camvid(tmp_path / "one")
    line = f"{TEACHER} --data camvid:one --set checkpoint.every=1"
    ranks = start_ranks(tmp_path, line, line)
    assert wait_until(lambda: (tmp_path / "run/checkpoints/last").exists() or ranks[0].poll() is not None)
    ranks[1].kill()
    (code, err), _ = ended(ranks)
    assert code == 1, err
    assert "Process 0 has lost the others: process 1 is dead." in err
    assert "Continue with: torchrun --nproc-per-node=2 -m segdistill resume run" in err
    assert "Traceback" not in err
    assert "ended (exit 1): Process 0 has lost the others" in (tmp_path / "run/train.log").read_text()


@pytest.mark.reliability
@pytest.mark.promise("R1", "R2")
@pytest.mark.skipif(sys.platform != "linux", reason="the processes of torchrun are found in /proc")
def test_where_torchrun_is_killed_its_processes_save_and_stop(tmp_path: Path) -> None:
    camvid(tmp_path / "one")
    with (tmp_path / "said").open("w") as said:
        words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
        line = f"-m segdistill {TEACHER} --data camvid:one --set checkpoint.every=1"
        agent = subprocess.Popen(
            [sys.executable, *words, *line.split()],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
        )
    assert wait_until(lambda: (tmp_path / "run/checkpoints/last").exists() or agent.poll() is not None)
    ranks = children(agent.pid)
    assert len(ranks) == 2, (tmp_path / "said").read_text()
    agent.kill()
    agent.wait()
    killed = time.monotonic()
    assert wait_until(lambda: not any(map(alive, ranks)))
    assert time.monotonic() - killed < 60
    assert re.search(
        r"ended \(exit 143\): Stopped by SIGTERM after step \d+ of 400", (tmp_path / "run/train.log").read_text()
    )
