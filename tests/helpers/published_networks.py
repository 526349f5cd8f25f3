"""What the code of the networks' authors computes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Golden:
    """What a network of so many outputs computes for the image det((1, 3, 96, 128), 7, 3, 101)."""

    classes: int
    tensors: str
    shape: tuple[int, int, int, int]
    mean: float
    std: float
    largest: float
    first_row: tuple[float, ...] = ()
    center: tuple[float, ...] = ()
    ordered: bool = False


GOLDEN = {
    "espnet": Golden(
        classes=12,
        tensors="627ee1da59e2ee31",
        ordered=True,
        shape=(1, 12, 96, 128),
        mean=0.0010496651302106396,
        std=0.07226658380647544,
        largest=0.31493954389675954,
        first_row=(-0.026922673024424533, 0.04222442118481601, 0.024621240220392054, -0.03666574901338661),
        center=(0.005487427594108212, -0.03707577121094902, -0.1176890612215934, 0.26989106585340034),
    ),
    "espnet-c": Golden(
        classes=20,
        tensors="ba2c537014206da7",
        ordered=True,
        shape=(1, 20, 12, 16),
        mean=-0.08446555746126198,
        std=0.3501012656731981,
        largest=0.8984813846757436,
        first_row=(-0.02286121038336345, -0.03262347119190133, -0.05258084572713137, -0.06379374808762742),
        center=(-0.024488445781318816, -0.11796569432309777, -0.2365533474347573, -0.5904724700647013),
    ),
    "stdcseg-stdc1": Golden(
        classes=19,
        tensors="8f8afb5b91e835c6",
        shape=(1, 19, 12, 16),
        mean=-0.03725070523064741,
        std=0.12023906447324899,
        largest=0.6757702244581254,
    ),
    "stdcseg-stdc2": Golden(
        classes=19,
        tensors="0e46ebb993927e19",
        shape=(1, 19, 12, 16),
        mean=-0.0258258704481972,
        std=0.09014986858674869,
        largest=0.399568915827031,
    ),
    "ocrnet-hrnetw18": Golden(
        classes=19,
        tensors="a1d08979da52f98b",
        shape=(1, 19, 24, 32),
        mean=-0.1024853219415232,
        std=0.4146750888418052,
        largest=0.7929433600881293,
    ),
    "ddrnet-23-slim": Golden(
        classes=19,
        tensors="a0fa9b6692377dd0",
        shape=(1, 19, 12, 16),
        mean=-0.02063493039754847,
        std=0.061963717003475305,
        largest=0.351141565416596,
    ),
    "pidnet-s": Golden(
        classes=19,
        tensors="62d6965bdeb58af9",
        shape=(1, 19, 12, 16),
        mean=-0.018960124748628994,
        std=0.237234562880893,
        largest=2.251491361087289,
    ),
    "unet-resnet18": Golden(
        classes=19,
        tensors="87861f7280a2c901",
        shape=(1, 19, 96, 128),
        mean=-0.006554408625439167,
        std=0.028470982828763005,
        largest=0.05798994957210839,
        first_row=(0.024285273882299174, 0.012790522789224679, 0.014806357238408674, 0.014537938266109615),
        center=(0.016091362193825426, 0.04558160393526115, -0.030860984506264254, -0.002589816858033785),
    ),
}
"""The tensors of PIDNet are without those of its head on edges; the published order is kept where `ordered`."""
