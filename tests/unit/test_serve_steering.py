"""What a request may steer along, and how: every form is read as it is meant, and every mistake is refused in words."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from affectome.errors import UserError
from affectome.serve.catalogue import RANDOM_DIRECTIONS, open_file, open_run, principal_plane
from affectome.serve.plan import Change, Readout, Refused, decode, encode
from affectome.serve.steering import MOST_CHANGES, take_readout, take_steering
from tests.unit.serving import EMOTIONS, tiny_catalogue, write_vectors


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return tiny_catalogue(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="module")
def folder(catalogue):
    return catalogue.model_folder.parent


class TestForms:
    def test_an_item_is_a_length_at_the_headline_layer(self, catalogue):
        body = {"steering": [{"emotion": "afraid", "strength": 0.05}], "model": "m"}
        assert take_steering(body, catalogue) == (Change(1, ((2, 0.05 * 12.0),), "add", "generated"),)
        assert body == {"model": "m"}

    def test_every_layer_of_a_list_gets_the_whole_strength(self, catalogue):
        item = {"emotion": "calm", "strength": -0.06, "layers": [2, 0, 2], "positions": "prompt"}
        assert take_steering({"steering": [item]}, catalogue) == (
            Change(0, ((0, -0.06 * 10.0), (2, -0.06 * 12.0)), "add", "prompt"),
        )

    def test_a_flat_list_multiplies_vectors_as_they_are_stored(self, catalogue):
        alpha = 0.25
        (change,) = take_steering({"steering": [3, alpha]}, catalogue, allow_unsafe=True)
        ((layer, length),) = change.lengths
        assert (change.direction, layer, change.mode, change.positions) == (3, catalogue.headline, "add", "all")
        assert length == pytest.approx(alpha * catalogue.stored[layer][3])

    def test_a_whole_number_may_be_written_with_a_point(self, catalogue):
        for layers in (1.0, [1.0]):
            (change,) = take_steering({"steering": [{"emotion": "calm", "layers": layers}]}, catalogue)
            assert change.lengths[0][0] == 1
        assert take_readout({"readout": {"emotions": ["calm"], "layer": 1.0}}, catalogue).layer == 1

    @pytest.mark.parametrize("place", ["extra_body", "vllm_xargs"])
    def test_it_may_stand_where_clients_put_it(self, catalogue, place):
        body = {place: {"steering": [{"emotion": "calm"}]}}
        assert take_steering(body, catalogue) == take_steering({"steering": [{"emotion": "calm"}]}, catalogue)
        assert body == {}
        body = {place: {"steering": [0, 0.01], "top_k": 3}}
        assert len(take_steering(body, catalogue)) == 1
        assert body == {place: {"top_k": 3}}

    @pytest.mark.parametrize("body", [{}, {"steering": None}, {"steering": []}, {"vllm_xargs": {}}])
    def test_nothing_asked_is_nothing_done(self, catalogue, body):
        assert take_steering(body, catalogue) == ()

    def test_random_directions_can_be_steered_along(self, catalogue):
        (change,) = take_steering({"steering": [{"emotion": "random:1", "family": "random"}]}, catalogue)
        assert catalogue.directions[change.direction].name == "random:1"

    def test_ablating_needs_no_strength(self, catalogue):
        (change,) = take_steering({"steering": [{"emotion": "sad", "mode": "ablate", "positions": "all"}]}, catalogue)
        assert (change.mode, change.positions) == ("ablate", "all")

    def test_a_readout_names_rows(self, catalogue):
        body = {"readout": {"emotions": ["sad", "calm"], "layer": 1}}
        assert take_readout(body, catalogue) == Readout(1, (3, 0))
        assert body == {}
        assert take_readout({"readout": {"emotions": ["calm"]}}, catalogue).layer == catalogue.headline
        assert take_readout({}, catalogue) is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("steering", "said"),
        [
            ("calm", "is a list, not a text"),
            ({"emotion": "calm"}, "is a list, not an object"),
            (True, "not true or false"),
            ([{"emotion": "clam"}], "no emotion 'clam'; near it: calm"),
            ([{"emotion": "calm", "family": "moods"}], "no family 'moods'; allowed: emotion, random"),
            ([{"emotion": "calm", "strengh": 1}], "strengh: Extra inputs"),
            ([{"strength": 0.1}], "emotion: Field required"),
            ([{"emotion": "calm", "strength": "0.1"}], "0.strength: should be a valid number"),
            ([{"emotion": "calm", "strength": math.nan}], "strength: should be a finite number"),
            ([{"emotion": "calm", "strength": math.inf}], "strength: "),
            ([{"emotion": "calm", "strength": 3}], "less than or equal to 2"),
            ([{"emotion": "calm", "layers": 3}], "no vectors of layer 3; allowed: auto, 0 to 2"),
            ([{"emotion": "calm", "layers": []}], "at least 1 item"),
            ([{"emotion": "calm", "layers": 1.5}], "valid integer"),
            ([{"emotion": "calm", "layers": True}], "valid integer"),
            ([{"emotion": "calm", "layers": -1}], "greater than or equal to 0"),
            ([{"emotion": "calm", "positions": "first"}], "'all', 'prompt' or 'generated'"),
            ([{"emotion": "calm", "mode": "multiply"}], "'add', 'ablate' or 'clamp'"),
            ([{"emotion": "calm"}, 3], "valid dictionary"),
            ([{"emotion": "calm"}] * (MOST_CHANGES + 1), f"at most {MOST_CHANGES}"),
            ([0], "pairs of id and alpha"),
            ([0, 0.01] * (MOST_CHANGES + 1), "pairs of id and alpha"),
            ([99, 0.01], "99 is no id of a direction; ids are 0 to 7"),
            ([-1, 0.01], "is no id"),
            ([0.5, 0.01], "is no id"),
            ([10**400, 0.01], "is no id"),
            ([math.nan, 0.01], "is no id"),
            ([0, math.inf], "has to be a number"),
            ([0, math.nan], "has to be a number"),
            ([0, 10**400], "has to be a number"),
            ([0, True], "steering."),
        ],
    )
    def test_says_what_is_allowed(self, catalogue, steering, said):
        with pytest.raises(Refused) as caught:
            take_steering({"steering": steering}, catalogue)
        assert said in caught.value.message
        assert caught.value.status == 400
        assert caught.value.param == "steering"
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 400

    @pytest.mark.parametrize("strength", [0.3, -0.2])
    def test_a_safe_range_has_its_ends(self, catalogue, strength):
        take_steering({"steering": [{"emotion": "calm", "strength": strength}]}, catalogue)
        with pytest.raises(Refused, match=r"outside its safe range, -0\.2 to 0\.3 \(measured; as alpha .*allow_unsafe"):
            take_steering({"steering": [{"emotion": "calm", "strength": strength * 1.01}]}, catalogue)

    def test_alphas_of_the_message_are_the_ends_of_the_range(self, catalogue):
        with pytest.raises(Refused) as caught:
            take_steering({"steering": [0, 3.0]}, catalogue)
        assert caught.value.code == "strength_out_of_range"
        high = 0.3 * 12.0 / catalogue.stored[2][0]
        assert f" to {high:.3g})" in caught.value.message
        take_steering({"steering": [0, 0.999 * high]}, catalogue)

    def test_what_was_not_measured_is_said_to_be(self, catalogue):
        with pytest.raises(Refused, match=r"-0\.1 to 0\.1 \(not measured"):
            take_steering({"steering": [{"emotion": "sad", "strength": 0.11}]}, catalogue)

    @pytest.mark.parametrize(
        "steering",
        [
            [{"emotion": "sad", "strength": 0.06}] * 2,
            [{"emotion": "sad", "strength": 0.06, "layers": [0, 1]}],
            [{"emotion": "sad", "strength": 0.06, "layers": 0}, {"emotion": "sad", "strength": 0.06, "layers": 1}],
            # What is pushed at one layer is not taken back at another.
            [{"emotion": "sad", "strength": 0.11, "layers": 0}, {"emotion": "sad", "strength": -0.11, "layers": 1}],
            [{"emotion": "sad", "strength": 0.11, "mode": "clamp"}],
        ],
    )
    def test_pushes_along_one_direction_count_together(self, catalogue, steering):
        with pytest.raises(Refused, match="outside its safe range"):
            take_steering({"steering": steering}, catalogue)
        take_steering({"steering": steering}, catalogue, allow_unsafe=True)

    def test_nothing_allows_more_than_any_model_bears(self, catalogue):
        item = {"emotion": "sad", "strength": 1.5, "layers": [0, 1]}
        with pytest.raises(Refused, match="beyond every model"):
            take_steering({"steering": [item]}, catalogue, allow_unsafe=True)

    def test_two_places_are_one_too_many(self, catalogue):
        with pytest.raises(Refused, match="several places"):
            take_steering({"steering": [0, 0.01], "extra_body": {"steering": [0, 0.01]}}, catalogue)

    @pytest.mark.parametrize(
        ("readout", "said"),
        [
            ({"emotions": []}, "at least 1 item"),
            ({"emotions": ["clam"]}, "near it: calm"),
            ({"emotions": ["calm"], "layer": 9}, "no vectors of layer 9"),
            (["calm"], "valid dictionary"),
        ],
    )
    def test_readouts_too(self, catalogue, readout, said):
        with pytest.raises(Refused) as caught:
            take_readout({"readout": readout}, catalogue)
        assert said in caught.value.message

    def test_a_readout_is_of_one_reply(self, catalogue):
        with pytest.raises(Refused, match="n at 1"):
            take_readout({"readout": {"emotions": ["calm"]}, "n": 2}, catalogue)


class TestWire:
    PLAN = (Change(0, ((2, 0.6),)), Change(5, ((0, -1.5), (1, 2.5)), "clamp", "all"))

    @pytest.mark.parametrize("readout", [None, Readout(1, (0, 3), "r7")])
    def test_comes_back_as_it_went(self, readout):
        assert decode(encode(self.PLAN, readout)) == (self.PLAN, readout)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "3",
            '{"plan": 3}',
            '{"plan": [[0, "add", "all"]]}',
            '{"plan": [[0, "add", "all", []]]}',
            '{"plan": [[0, "add", "all", [[1, 2.0], [0, 1.0]]]]}',
            '{"plan": [[0, "add", "all", [[1, 2.0], [1, 1.0]]]]}',
            '{"plan": [[0, "push", "all", [[1, 2.0]]]]}',
            '{"plan": [[0, "add", "some", [[1, 2.0]]]]}',
            '{"plan": [[-1, "add", "all", [[1, 2.0]]]]}',
            '{"plan": [[true, "add", "all", [[1, 2.0]]]]}',
            '{"plan": [[0, "add", "all", [[1, NaN]]]]}',
            '{"plan": [], "readout": {"layer": 0}}',
            "[" * 100_000,
        ],
    )
    def test_nothing_else_is_taken_for_a_plan(self, text):
        with pytest.raises(ValueError):  # noqa: PT011 - any
            decode(text)

    def test_what_is_not_finite_is_not_sent(self):
        with pytest.raises(ValueError, match="JSON"):
            encode((Change(0, ((0, math.nan),)),))


class TestCatalogue:
    def test_says_what_there_is(self, catalogue):
        said = catalogue.as_json()
        assert json.loads(json.dumps(said)) == said | {"data": json.loads(json.dumps(said["data"]))}
        assert said["families"] == {
            "emotion": list(EMOTIONS),
            "random": [f"random:{n}" for n in range(RANDOM_DIRECTIONS)],
        }
        assert [entry["id"] for entry in said["data"]] == list(range(8))
        assert said["data"][0]["safe_range"] == {"low": -0.2, "high": 0.3, "measured": True}
        assert said["data"][3]["reliability"] is None
        assert (said["headline_layer"], said["layers"], said["residual_norm"]["1"]) == (2, [0, 1, 2], 11.0)

    def test_an_engine_gets_the_same_directions(self, catalogue, tmp_path):
        catalogue.write_directions(tmp_path / "directions.safetensors")
        with safe_open(tmp_path / "directions.safetensors", "numpy") as file:
            assert json.loads(file.metadata()["residual_norm"]) == {"0": 10.0, "1": 11.0, "2": 12.0}
            for layer, units in catalogue.units.items():
                np.testing.assert_array_equal(file.get_tensor(f"layer_{layer}"), units)
                np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-6)

    def test_random_directions_are_the_same_each_time_and_unlike(self, catalogue, folder):
        again = open_file(folder / "vectors.safetensors", folder / "tiny")
        np.testing.assert_array_equal(again.units[1], catalogue.units[1])
        assert np.linalg.matrix_rank(catalogue.units[1]) == 8

    def test_the_plane_is_that_of_principal_components(self):
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(20, 7)) * [9, 4, 1, 1, 1, 1, 1]
        places, explained = principal_plane(vectors)
        values, axes = np.linalg.eigh(np.cov(vectors.T))
        for component, (value, axis) in enumerate(zip(values[::-1][:2], axes.T[::-1][:2], strict=True)):
            found = np.array(places)[:, component]
            assert abs(np.corrcoef(found, vectors @ axis)[0, 1]) == pytest.approx(1)
            assert explained[component] == pytest.approx(value / values.sum())
            assert found[np.abs(found).argmax()] > 0

    def test_vectors_of_other_weights_are_refused(self, folder, tmp_path):
        shutil.copytree(folder / "tiny", tmp_path / "tiny")
        manifest = tmp_path / "tiny/manifest.json"
        manifest.write_text(manifest.read_text().replace('"model.safetensors": "', '"model.safetensors": "0'))
        with pytest.raises(UserError, match="made from other weights"):
            open_file(folder / "vectors.safetensors", tmp_path / "tiny")

    @pytest.mark.parametrize(
        ("width", "layers", "said"),
        [(8, 3, "vectors of width 8 are not of"), (16, 4, "vectors of block 3; .* 3 blocks")],
    )
    def test_so_are_vectors_of_another_size(self, folder, tmp_path, width, layers, said):
        with pytest.raises(UserError, match=said):
            open_file(write_vectors(tmp_path / "v.safetensors", width, layers), folder / "tiny")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"format": "other"}, "no export of affectome"),
            ({"residual_norm": "{}"}, "no layers"),
            ({"residual_norm": '{"0": null}'}, "without a residual norm"),
            ({"residual_norm": "["}, "lacks its residual norms"),
        ],
    )
    def test_so_is_what_cannot_be_a_unit(self, folder, tmp_path, change, said):
        with pytest.raises(UserError, match=said):
            open_file(write_vectors(tmp_path / "v.safetensors", 16, 3, **change), folder / "tiny")

    @pytest.mark.parametrize("value", [np.nan, 0.0, 3.0])
    def test_and_a_vector_without_direction(self, folder, tmp_path, value):
        path = write_vectors(tmp_path / "v.safetensors", 16, 3)
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            said = file.metadata()
        arrays["layer_1/unit"][2] *= value
        save_file(arrays, path, said)
        with pytest.raises(UserError, match=r"NaN|the vector of proud at layer 1 is not of length 1"):
            open_file(path, folder / "tiny")

    def test_a_pickle_is_not_read(self, folder, tmp_path):
        import pickle

        path = tmp_path / "v.safetensors"
        path.write_bytes(pickle.dumps({"layer_0/unit": [1.0]}))
        with pytest.raises(UserError, match="safetensors alone"):
            open_file(path, folder / "tiny")

    def test_a_run_that_is_not_made_is_named_with_the_call_that_makes_it(self, tmp_path):
        with pytest.raises(UserError, match=r"snakemake --config 'runs=\[nowhere\]'"):
            open_run("nowhere", tmp_path)
