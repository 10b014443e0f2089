"""The demo's photographs: geometry, every family, and the data set as a whole."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.demo.rendering import geometry
from pipelines.demo.rendering.camera import LONG_SIDE, look_at, take_view
from pipelines.demo.rendering.data_set import render_data_set
from pipelines.demo.rendering.geometry import box, panel, quad, revolve
from pipelines.demo.rendering.ground import Ground
from pipelines.demo.rendering.landmarks import FAMILIES, landmark
from pipelines.demo.rendering.plain import KINDS, plain_scene
from pipelines.demo.rendering.raster import Atlas, Mesh, draw, see_from_sun, sun_reaches
from pipelines.demo.rendering.scene import Scene, Subject, photograph
from pipelines.demo.rendering.weather import draw_weather

pytestmark = pytest.mark.slow

COUNTS = {"landmarks": 3, "gallery_views": 2, "query_views": 1, "none": 2}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    render_data_set(folder, seed=5, workers=1, **COUNTS)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Geometry ----------------------------------------------------------------------------------------


def test_known_points_project_where_a_pinhole_puts_them() -> None:
    camera = look_at([0.0, -10.0, 2.0], [0.0, 0.0, 2.0], 100.0, (201, 101))
    seen = camera.project([[0, 0, 2], [1, 0, 2], [0, 0, 3], [0, 10, 2], [2, 10, 1]])
    expected = [[100, 50, 10], [110, 50, 10], [100, 40, 10], [100, 50, 20], [110, 55, 20]]
    np.testing.assert_allclose(seen, expected, atol=1e-9)


def test_rays_go_through_the_points_that_project_to_their_pixels() -> None:
    camera = look_at([3.0, -9.0, 4.0], [0.5, 1.0, 2.0], 90.0, (160, 120), roll=0.1)
    for x, y in ((0, 0), (159, 0), (80, 60), (13, 119)):
        point = camera.position + 7.0 * camera.rays()[:, y, x]
        np.testing.assert_allclose(camera.project(point[None])[0], [x, y, 7.0], atol=1e-3)


def test_every_face_of_a_box_points_outwards() -> None:
    centre = np.array([1.0, 2.0, 4.5])
    for face in box((1, 2, 3), (2, 4, 3), "wall", "roof"):
        normal = geometry.cross(face.frame[0], face.frame[1])
        assert np.dot(face.vertices().mean(axis=0) - centre, normal) > 0


def test_a_quad_maps_its_corners_to_the_corners_of_its_texture() -> None:
    corners = np.array([[-2.0, 0, 0], [2, 0, 0], [1, 0, 3], [-1, 0, 3]])
    face = quad(corners, "wall")
    plane = np.column_stack([(corners - face.frame[2]) @ face.frame[:2].T, np.ones(4)])
    mapped = plane @ face.chart.T
    np.testing.assert_allclose(
        mapped[:, :2] / mapped[:, 2:], [[0, 1], [1, 1], [1, 0], [0, 0]], atol=1e-5
    )


def test_a_surface_of_revolution_keeps_to_its_profile() -> None:
    faces = revolve([(3, 0), (2, 5), (1, 6)], "wall", sides=12, centre=(4, 5, 6))
    points = np.vstack([face.vertices() for face in faces]) - [4, 5, 6]
    radius = np.hypot(points[:, 0], points[:, 1])
    np.testing.assert_allclose(radius, np.interp(points[:, 2], [0, 5, 6], [3, 2, 1]), atol=1e-9)


# Rasterising -------------------------------------------------------------------------------------


def two_walls() -> tuple[Mesh, Atlas]:
    """A wall of 4 by 4 metres at y = 0, with a hole in it, and a bigger one at y = 5."""
    grey = np.full((8, 8, 3), 128, dtype=np.uint8)
    square = np.array([[-2.0, 0], [2, 0], [2, 4], [-2, 4]])
    front = panel([0, 0, 0], [1, 0, 0], [0, 0, 1], [square, square / 2 + [0, 1]], "grey")
    back = panel([0, 5, 0], [1, 0, 0], [0, 0, 1], [square * 2], "grey")
    atlas = Atlas.of({"grey": grey})
    return Mesh.of([front, back], atlas), atlas


def test_the_nearer_face_is_seen_and_a_hole_shows_what_is_behind() -> None:
    mesh, _ = two_walls()
    camera = look_at([0.0, -10.0, 2.0], [0.0, 0.0, 2.0], 100.0, (201, 101))
    buffer = draw(mesh, camera)
    for point, owner, depth in (([1.5, 0, 2], 0, 10), ([0.0, 0, 2], 1, 15), ([3.8, 5, 5], 1, 15)):
        x, y, _ = camera.project([point])[0].round().astype(int)
        assert buffer.owner[y, x] == owner
        assert 1 / buffer.near[y, x] == pytest.approx(depth, rel=1e-4)
    assert buffer.owner[50, 0] == -1


def test_a_face_that_crosses_the_camera_plane_is_clipped() -> None:
    atlas = Atlas.of({"grey": np.full((8, 8, 3), 128, dtype=np.uint8)})
    floor = quad([[-5, -50, 0], [5, -50, 0], [5, 50, 0], [-5, 50, 0]], "grey")
    camera = look_at([0.0, 0.0, 2.0], [0.0, 20.0, 2.0], 100.0, (201, 101))
    buffer = draw(Mesh.of([floor], atlas), camera)
    assert (buffer.owner[:50] == -1).all()
    assert buffer.owner[100, 100] == 0
    assert 1 / buffer.near[100, 100] == pytest.approx(2.0 * 100 / 50, rel=1e-3)


def test_the_sun_is_hidden_behind_a_wall_and_only_there() -> None:
    mesh, _ = two_walls()
    weather = next(
        weather
        for weather in (draw_weather(np.random.default_rng(i)) for i in range(99))
        if weather.sunlight.max() > 0.5 and weather.sun[2] > 0.5
    )
    sun = see_from_sun(mesh, weather, np.array([-4.0, 0, 0]), np.array([4.0, 5, 8]))
    wall = np.array([1.5, 0.0, 3.5])
    behind, before = wall - 1.5 * weather.sun, wall + 1.5 * weather.sun
    lit = sun_reaches(sun, np.stack([behind, before], axis=1).astype(np.float32), 0.1)
    np.testing.assert_array_equal(lit, [0, 1])


def test_water_mirrors_what_stands_in_it() -> None:
    red = np.zeros((16, 16, 3), dtype=np.uint8)
    red[..., 0] = 250
    tower = box((0, 0, 0), (3, 3, 12), "red", "red")
    pictures = {}
    for material in ("water", "sand"):
        scene = Scene.of(Subject(tower, {"red": red}, Ground(material, material, 99.0)))
        camera = look_at([0.0, -40.0, 3.0], [0.0, 0.0, 3.0], 200.0, (160, 160))
        rng = np.random.default_rng(4)
        pictures[material] = photograph(rng, scene, camera, draw_weather(rng)).astype(float)
    below = [picture[105:120, 76:84] for picture in pictures.values()]
    redness = [float((part[..., 0] - part[..., 2]).mean()) for part in below]
    aside = pictures["water"][105:120, :40]
    assert redness[0] > float((aside[..., 0] - aside[..., 2]).mean()) + 15


# The scenes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=list(FAMILIES))
def test_every_family_fills_a_fair_part_of_its_views(number: int) -> None:
    scene = Scene.of(landmark(number).build(0))
    shares = []
    for seed in range(5):
        view = take_view(np.random.default_rng(seed), scene.low, scene.high)
        shares.append(float((draw(scene.mesh, view).owner >= 0).mean()))
    assert min(shares) > 0.02
    assert 0.08 < np.median(shares) < 0.95


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=list(FAMILIES))
def test_members_of_a_family_differ(number: int) -> None:
    one, other = landmark(number), landmark(number + len(FAMILIES))
    assert one.family == other.family
    assert one.id != other.id
    first, second = one.build(0).textures, other.build(0).textures
    assert any(
        first[name].shape != second[name].shape or (first[name] != second[name]).any()
        for name in first.keys() & second.keys()
    )


def test_landmarks_have_names_to_read_and_ids_of_their_own() -> None:
    members = [landmark(number) for number in range(52)]
    assert len({member.id for member in members}) == 52
    assert len({member.name for member in members}) == 52
    assert Counter(member.family for member in members) == dict.fromkeys(FAMILIES, 4)
    assert members[14].name == "Suspension Bridge II"
    assert members[14].id == "suspension-bridge-2"


@pytest.mark.parametrize("kind", list(KINDS))
def test_scenes_without_a_landmark_never_repeat(kind: str) -> None:
    first, second = (plain_scene(np.random.default_rng(seed), kind) for seed in (1, 2))
    names = first.subject.textures.keys() & second.subject.textures.keys()
    corners = [
        np.vstack([face.vertices() for face in scene.subject.faces]) for scene in (first, second)
    ]
    assert names
    assert corners[0].shape != corners[1].shape or not np.allclose(corners[0], corners[1])
    assert any(
        first.subject.textures[name].shape != second.subject.textures[name].shape
        or (first.subject.textures[name] != second.subject.textures[name]).any()
        for name in names
    )


# The data set ------------------------------------------------------------------------------------


def test_tables_have_the_counts_and_columns_asked_for(data_set: Path) -> None:
    index, test, none = (rows(data_set / f"{name}.csv") for name in ("index", "test", "none"))
    for table in (index, test, none):
        assert list(table[0]) == ["id", "path", "landmark_id", "source"]
        assert {row["source"] for row in table} == {"demo"}
    names = {row["landmark_id"]: row["name"] for row in rows(data_set / "landmarks.csv")}
    assert len(names) == 3
    assert Counter(row["landmark_id"] for row in index) == dict.fromkeys(names, 2)
    assert Counter(row["landmark_id"] for row in test) == {**dict.fromkeys(names, 1), "": 1}
    assert Counter(row["landmark_id"] for row in none) == {"": 1}


def test_ids_are_unique_and_name_the_files(data_set: Path) -> None:
    every = [row for name in ("index", "test", "none") for row in rows(data_set / f"{name}.csv")]
    assert len({row["id"] for row in every}) == len(every) == 3 * 3 + 2
    for row in every:
        name = row["id"]
        assert len(name) == 16
        assert set(name) <= set("0123456789abcdef")
        assert row["path"] == f"photos/{name[0]}/{name[1]}/{name[2]}/{name}.jpg"
    photographs = {str(path.relative_to(data_set)) for path in data_set.rglob("*.jpg")}
    assert photographs == {row["path"] for row in every}
    assert not list(data_set.rglob("*.part"))


def test_photographs_are_of_the_size_asked_for_and_all_different(data_set: Path) -> None:
    pictures = [cv2.imread(str(path)) for path in sorted(data_set.rglob("*.jpg"))]
    for picture in pictures:
        assert max(picture.shape[:2]) == LONG_SIDE
        assert min(picture.shape[:2]) >= LONG_SIDE / 2
        assert picture.std() > 8  # neither black nor burnt out
    small = [cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA) for picture in pictures]
    for i, one in enumerate(small):
        for other in small[:i]:
            assert np.abs(one.astype(int) - other).mean() > 4


@pytest.mark.slow
def test_workers_do_not_change_a_byte(data_set: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    render_data_set(
        tmp_path, seed=5, workers=2, progress=lambda done, bad: steps.append((done, bad)), **COUNTS
    )
    assert contents(tmp_path) == contents(data_set)
    assert sum(done for done, _ in steps) == 11
    assert {failed for _, failed in steps} == {0}


def test_another_seed_gives_other_photographs(data_set: Path, tmp_path: Path) -> None:
    render_data_set(
        tmp_path, seed=6, workers=1, landmarks=1, gallery_views=1, query_views=0, none=1
    )
    (row,) = rows(tmp_path / "index.csv")
    assert row["id"] not in {row["id"] for row in rows(data_set / "index.csv")}
    assert not set(contents(tmp_path).values()) & {
        digest for name, digest in contents(data_set).items() if name.endswith(".jpg")
    }
