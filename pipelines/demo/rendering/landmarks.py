"""The demo's landmarks: families whose members share a style, and their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.demo.rendering.bridges import stone_bridge, suspension_bridge, viaduct
from pipelines.demo.rendering.buildings import cathedral, city_gate, domed_hall, palace
from pipelines.demo.rendering.monuments import statue, triumphal_arch
from pipelines.demo.rendering.scene import Subject
from pipelines.demo.rendering.textures import Generator
from pipelines.demo.rendering.towers import bell_tower, high_rise, lighthouse, pagoda

FAMILIES: dict[str, Callable[[Generator, Generator], Subject]] = {
    "Lighthouse": lighthouse,
    "Suspension Bridge": suspension_bridge,
    "Domed Hall": domed_hall,
    "Bell Tower": bell_tower,
    "Triumphal Arch": triumphal_arch,
    "Palace": palace,
    "Statue": statue,
    "Viaduct": viaduct,
    "Cathedral": cathedral,
    "Pagoda": pagoda,
    "City Gate": city_gate,
    "Stone Bridge": stone_bridge,
    "High-Rise": high_rise,
}
_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


@dataclass(frozen=True)
class Landmark:
    """One landmark: `number` from 0, its family's name and its place in the family from 0."""

    number: int
    family: str
    member: int

    @property
    def id(self) -> str:
        """The landmark_id of the CSV files, such as "city-gate-2"."""
        return f"{self.family.lower().replace(' ', '-')}-{self.member + 1}"

    @property
    def name(self) -> str:
        """A name to read, such as "City Gate II"."""
        numeral = _NUMERALS[self.member] if self.member < len(_NUMERALS) else str(self.member + 1)
        return f"{self.family} {numeral}"

    def build(self, seed: int) -> Subject:
        """The structure: a function of the seed and of the landmark alone."""
        family = list(FAMILIES).index(self.family)
        kin = np.random.default_rng([seed, 1, family])
        own = np.random.default_rng([seed, 2, family, self.member])
        return FAMILIES[self.family](kin, own)


def landmark(number: int) -> Landmark:
    """The landmark with that number; neighbours are of different families."""
    return Landmark(number, list(FAMILIES)[number % len(FAMILIES)], number // len(FAMILIES))
