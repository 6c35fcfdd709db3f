"""Every family as transformers runs it, and every checkpoint as sentence-transformers does."""

import json
import pickle
import shutil
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from transformers import AutoModel

from pipeline import (
    BertVectorizer,
    FineTunedBertClassifier,
    explain,
    load_pipeline,
    make_sentiment_pipeline,
    save_pipeline,
    score_table,
)
from pipeline.checkpoints.checkpoint import fetch_to, verify_folder
from pipeline.exceptions import CheckpointError, ModelWarning
from tests.conftest import OTHER_FAMILIES, TEXTS, build_model
from tests.fake_hub import FakeHub, connect

TOLERANCE = 1e-5
LABELS = [i % 2 for i in range(len(TEXTS))]
SOME = ["A quiet, lovely film.", "", "unbelievably embeddable", "a " * 30, "Not bad at all!"]


# ---- families


@pytest.fixture(scope="module")
def oracle():
    """Give all hidden states of a text by transformers' own model and tokenizer."""
    loaded = {}

    def states(folder, text):
        if folder not in loaded:
            loaded[folder] = AutoModel.from_pretrained(folder).eval()
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        with torch.inference_mode():
            found = loaded[folder](
                input_ids=torch.tensor([tokenizer.encode(text).ids]), output_hidden_states=True
            )
        return torch.stack(found.hidden_states)[:, 0].numpy(), found.last_hidden_state[0].numpy()

    return states


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_every_layer_and_pooling_is_that_of_transformers_for_ragged_texts(
    family, model_folder, oracle
):
    folder = model_folder(family)
    vectors = {
        pooling: BertVectorizer(folder, pooling=pooling, layers="all", cache=None)
        .fit_transform(SOME)
        .reshape(len(SOME), 4, 32)
        for pooling in ("cls", "mean", "max")
    }
    for i, text in enumerate(SOME):
        states, last = oracle(folder, text)
        assert np.abs(states[-1] - last).max() == 0
        assert np.abs(vectors["cls"][i] - states[:, 0]).max() <= TOLERANCE
        assert np.abs(vectors["mean"][i] - states.mean(axis=1)).max() <= TOLERANCE
        assert np.abs(vectors["max"][i] - states.max(axis=1)).max() <= TOLERANCE
    alone = BertVectorizer(folder, layers=1, cache=None).fit_transform(SOME)
    assert np.abs(alone - vectors["mean"][:, 1]).max() <= TOLERANCE


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_a_saved_pipeline_of_any_family_opens_and_scores_without_its_folder(family, tmp_path):
    folder = build_model(tmp_path / "model", family, n_layers=2)
    model = make_sentiment_pipeline(model=str(folder), layers=1, cache=None)
    model.fit(TEXTS, LABELS)
    expected = model.predict_proba(SOME)
    save_pipeline(model, tmp_path / "model.joblib")
    shutil.rmtree(folder)
    opened = load_pipeline(tmp_path / "model.joblib", verify="sha256")
    assert np.array_equal(opened.predict_proba(SOME), expected)
    table = pd.DataFrame({"text": SOME})
    score_table(tmp_path / "model.joblib", table, tmp_path / "scores.csv", text="text")
    probabilities = pd.read_csv(tmp_path / "scores.csv")["probability_1"]
    assert np.abs(probabilities - expected[:, 1]).max() <= TOLERANCE


@pytest.mark.parametrize("family", ["albert", "modernbert"])
def test_the_words_of_any_family_explain_its_decision(family, model_folder):
    model = make_sentiment_pipeline(model=model_folder(family), prompt="film ", cache=None)
    model.fit(TEXTS, LABELS)
    for frame, decision in zip(explain(model, SOME), model.decision_function(SOME), strict=True):
        assert frame.attrs["method"] == "exact"
        total = frame["contribution"].sum() + frame.attrs["intercept"]
        assert abs(total - decision) <= TOLERANCE


@pytest.mark.parametrize("family", ["albert", "deberta-v2", "modernbert"])
def test_other_families_are_fine_tuned_and_keep_what_they_learned(family, model_folder):
    settings = {"max_length": 16, "epochs": 1, "batch_size": 4, "random_state": 0}
    model = FineTunedBertClassifier(model_folder(family), **settings).fit(TEXTS, LABELS)
    probabilities = model.predict_proba(SOME)
    assert np.allclose(probabilities.sum(axis=1), 1)
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.predict_proba(SOME), probabilities)
    top = FineTunedBertClassifier(model_folder(family), unfrozen_layers=1, **settings)
    if family == "albert":
        with pytest.raises(ValueError, match="share their weights"):
            top.fit(TEXTS, LABELS)
    else:
        assert np.abs(top.fit(TEXTS, LABELS).predict_proba(SOME) - probabilities).max() > 0


def test_the_longest_text_of_an_offset_family_fits(model_folder):
    vectorizer = BertVectorizer(model_folder("mpnet"), cache=None).fit(["a " * 200])
    assert vectorizer.max_length_ == 64
    assert vectorizer.truncation_report_["texts_cut"] == 1
    assert np.isfinite(vectorizer.transform(["a " * 200])).all()


# ---- layouts


def test_weights_in_several_files_are_those_of_one(tmp_path, tiny_bert):
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny_bert, sharded)
    (sharded / "model.safetensors").unlink()
    AutoModel.from_pretrained(tiny_bert).save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    expected = BertVectorizer(tiny_bert, cache=None).fit_transform(SOME)
    vectorizer = BertVectorizer(str(sharded), cache=None)
    assert np.array_equal(vectorizer.fit_transform(SOME), expected)
    next(sharded.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        BertVectorizer(str(sharded), cache=None).fit(SOME)


def test_an_index_may_not_lead_out_of_its_folder(tmp_path, tiny_bert):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../outside.safetensors"}})
    )
    with pytest.raises(CheckpointError, match="no files of this folder"):
        BertVectorizer(str(folder)).fit(SOME)


def test_a_short_name_is_the_installed_model():
    vectorizer = BertVectorizer("all-MiniLM-L6-v2").fit(SOME)
    assert vectorizer.source_["model"] == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize("model", ["owner/name@v1.0", "owner/name:v1.0"])
def test_a_revision_within_the_id_is_refused_with_the_parameter_for_it(model):
    with pytest.raises(CheckpointError, match=r"revision='v1\.0'"):
        BertVectorizer(model).fit(SOME)


# ---- what the makers of a checkpoint put around the encoder


def published(folder, base, *, pooling="mean", steps=(), **settings):
    """Write a checkpoint as sentence-transformers writes it."""
    transformer = Transformer(str(base), max_seq_length=settings.pop("max_seq_length", 32))
    include_prompt = settings.pop("include_prompt", True)
    pool = Pooling(32, pooling, include_prompt=include_prompt)
    torch.manual_seed(0)
    modules = [transformer, pool, *(step() if callable(step) else step for step in steps)]
    model = SentenceTransformer(modules=modules, device="cpu", **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm." in name and not name.startswith("0."):
                parameter.uniform_(0.5, 1.5)
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture
def publish(tmp_path, tiny_bert):
    """Publish the tiny model with other modules."""
    return partial(published, tmp_path / "model", tiny_bert)


PROMPT = {"prompts": {"query": "quiet film: ", "other": "a "}, "default_prompt_name": "query"}
CHECKPOINTS = {
    "mean and normalize": {"steps": [Normalize]},
    "cls": {"pooling": "cls"},
    "max": {"pooling": "max"},
    "mean by root of length": {"pooling": "mean_sqrt_len_tokens"},
    "weighted by position": {"pooling": "weightedmean"},
    "last token": {"pooling": "lasttoken"},
    "two poolings": {"pooling": ("mean", "cls"), "steps": [Normalize]},
    "every pooling": {
        "pooling": ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    },
    "dense with tanh": {"steps": [lambda: Dense(32, 16)]},
    "dense without activation": {
        "steps": [lambda: Dense(32, 48, activation_function=torch.nn.Identity())]
    },
    "dense, no bias, gelu, residual": {
        "steps": [
            lambda: Dense(
                32, 24, bias=False, activation_function=torch.nn.GELU(), use_residual=True
            ),
            Normalize,
        ]
    },
    "two dense layers and a norm": {
        "pooling": ("cls", "mean"),
        "steps": [lambda: Dense(64, 40), lambda: LayerNorm(40), lambda: Dense(40, 8)],
    },
    "prompt": PROMPT,
    "prompt that is not pooled": {**PROMPT, "include_prompt": False},
    "prompt, not pooled, cls and weights": {
        **PROMPT,
        "include_prompt": False,
        "pooling": ("cls", "max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens"),
    },
    "short": {"max_seq_length": 9, "pooling": "cls"},
    "short, with a prompt": {"max_seq_length": 12, **PROMPT},
}


def assert_is_sentence_transformers(folder, **parameters):
    expected = SentenceTransformer(str(folder), device="cpu").encode(SOME + TEXTS)
    vectorizer = BertVectorizer(str(folder), pooling="checkpoint", cache=None, **parameters)
    vectors = vectorizer.fit_transform(SOME + TEXTS)
    assert vectors.shape == expected.shape
    assert np.abs(vectors - expected).max() <= TOLERANCE
    assert len(vectorizer.get_feature_names_out()) == vectors.shape[1]
    return vectorizer


# equal texts after truncation would hide a wrong length
pytestmark = pytest.mark.filterwarnings("ignore:.*truncat:UserWarning")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_gives_the_vectors_of_sentence_transformers(name, publish):
    assert_is_sentence_transformers(publish(**CHECKPOINTS[name]))


@pytest.mark.parametrize("family", ["bert-cased", "roberta", "xlm-roberta", *OTHER_FAMILIES])
def test_a_checkpoint_of_any_family_does(family, tmp_path, model_folder):
    folder = published(
        tmp_path / "model", model_folder(family), pooling=("cls", "mean"), steps=[Normalize]
    )
    assert_is_sentence_transformers(folder)


def test_texts_are_lower_cased_where_the_folder_says_so(tmp_path, model_folder):
    folder = published(tmp_path / "model", model_folder("bert-cased"))
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": True}))
    lowered = assert_is_sentence_transformers(folder)
    assert np.array_equal(lowered.transform(["NOT Bad"]), lowered.transform(["not bad"]))


def test_the_older_layout_is_read(publish):
    folder = publish(pooling="max", steps=[lambda: Dense(32, 8)])
    old = folder / "0_Transformer"
    old.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                 "sentence_bert_config.json", "special_tokens_map.json"):  # fmt: skip
        if (folder / name).exists():
            (folder / name).rename(old / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    for module, kind in zip(modules, ("Transformer", "Pooling", "Dense"), strict=True):
        module["type"] = f"sentence_transformers.models.{kind}"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": 32,
                "pooling_mode_max_tokens": True,
                "pooling_mode_mean_tokens": False,
            }
        )
    )
    assert_is_sentence_transformers(folder)


@pytest.mark.parametrize("weights_in_artifact", [True, False])
def test_an_artifact_carries_the_modules_and_refuses_other_ones(
    weights_in_artifact, tmp_path, publish
):
    folder = publish(steps=[lambda: Dense(32, 8)], **PROMPT)
    vectorizer = BertVectorizer(
        str(folder), pooling="checkpoint", weights_in_artifact=weights_in_artifact, cache=None
    ).fit(SOME)
    expected = vectorizer.transform(SOME)
    joblib.dump(vectorizer, tmp_path / "v.joblib")
    dense = folder / "2_Dense" / "model.safetensors"
    tensors = {name: tensor * 2 for name, tensor in load_file(dense).items()}
    save_file(tensors, dense)
    opened = joblib.load(tmp_path / "v.joblib")
    if weights_in_artifact:
        assert np.array_equal(opened.transform(SOME), expected)
    else:
        with pytest.raises(CheckpointError, match=r"2_Dense/model\.safetensors differ"):
            opened.transform(SOME)
    state = vectorizer.__getstate__()
    if weights_in_artifact:
        state["_checkpoint"]["modules"] = {
            name: of + (name == "2_Dense/model.safetensors") * (np.arange(len(of)) == len(of) - 1)
            for name, of in state["_checkpoint"]["modules"].items()
        }
        with pytest.raises(CheckpointError, match="modules"):
            BertVectorizer().__setstate__(state)


def test_a_saved_pipeline_with_modules_is_scored_the_same(tmp_path, publish):
    folder = publish(pooling="cls", steps=[lambda: Dense(32, 8)])
    model = make_sentiment_pipeline(model=str(folder), pooling="checkpoint", cache=None)
    model.fit(TEXTS, LABELS)
    for ending in ("joblib", "skops"):
        path = tmp_path / f"model.{ending}"
        save_pipeline(model, path)
        opened = load_pipeline(path, verify="sha256")
        assert np.array_equal(opened.predict_proba(SOME), model.predict_proba(SOME))


def test_a_checkpoint_comes_whole_from_the_hub_and_by_a_carried_folder(
    tmp_path, monkeypatch, publish
):
    folder = publish(steps=[lambda: Dense(32, 8)], **PROMPT)
    expected = BertVectorizer(str(folder), pooling="checkpoint", cache=None).fit_transform(SOME)
    with FakeHub({"acme/published": folder}) as hub:
        connect(hub.url, tmp_path / "home", monkeypatch)
        vectorizer = BertVectorizer("acme/published", pooling="checkpoint", cache=None)
        assert np.array_equal(vectorizer.fit_transform(SOME), expected)
        fetch_to("acme/published", tmp_path / "carried")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert np.array_equal(vectorizer.fit(SOME).transform(SOME), expected)
    carried = BertVectorizer(str(tmp_path / "carried"), pooling="checkpoint", cache=None)
    assert np.array_equal(carried.fit_transform(SOME), expected)
    assert "2_Dense/model.safetensors" in verify_folder(tmp_path / "carried")


# ---- prompts


def test_a_prompt_is_the_text_before_each_text(tiny_bert):
    prompted = BertVectorizer(tiny_bert, prompt="lovely film: ", cache=None).fit(SOME)
    plain = BertVectorizer(tiny_bert, cache=None).fit(SOME)
    expected = plain.transform(["lovely film: " + text for text in SOME])
    assert np.abs(prompted.transform(SOME) - expected).max() <= TOLERANCE
    counted = plain.count_tokens(["lovely film: " + text for text in SOME])
    assert prompted.count_tokens(SOME).equals(counted)


@pytest.mark.parametrize("truncation", ["tail", "head_tail", "window"])
def test_truncation_keeps_the_prompt(truncation, tiny_bert):
    model = BertVectorizer(
        tiny_bert, prompt="film ", truncation=truncation, max_length=12, cache=None
    ).fit(["a"])
    sequences = model._bert().plan(["lovely " * 40]).tokenized.input_ids
    film = model._bert().plan(["a"]).tokenized.input_ids[0][1]
    assert all(ids[1] == film and len(ids) <= 12 for ids in sequences)


def test_prompts_do_not_share_a_cache(tiny_bert):
    first, second = (
        BertVectorizer(tiny_bert, prompt=prompt).fit_transform(SOME) for prompt in ("a ", "film ")
    )
    assert np.abs(first - second).max() > 0.01


def test_words_and_their_shares_are_those_of_the_text_without_the_prompt(tiny_bert):
    model = BertVectorizer(tiny_bert, prompt="lovely film: ", cache=None).fit(SOME)
    text = "Not bad at all!"
    assert [text[a:b] for a, b in model.word_spans([text])[0]] == ["Not", "bad", "at", "all", "!"]
    words = model.transform_tokens([text], level="word")["word"].tolist()
    assert words == ["Not", "bad", "at", "all", "!"]
    assert model.transform_tokens([text.split()], level="word")["word"].tolist() == text.split()
    weights = np.random.default_rng(0).normal(size=(32, 1))
    shares = model.token_shares([text], weights)[0]
    assert abs(shares[0].sum() - (model.transform([text]) @ weights).item()) < TOLERANCE
    own = shares[shares["word"].notna()]
    assert {text[a:b] for a, b in zip(own["start"], own["end"], strict=True)} <= {
        text[a:b] for a in range(len(text)) for b in range(a + 1, len(text) + 1)
    }


def test_a_prompt_that_leaves_no_room_is_refused(tiny_bert):
    with pytest.raises(ValueError, match="no room"):
        BertVectorizer(tiny_bert, prompt="lovely film " * 20, max_length=12).fit(SOME)


# ---- refusals and hints


def test_without_modules_it_says_what_is_missing(tiny_bert):
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        BertVectorizer(tiny_bert, pooling="checkpoint").fit(SOME)


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("modules.json", lambda m: [*m, {"type": "custom_st.Head", "path": "3_Head"}], "custom_st"),
        ("modules.json", lambda m: m[:1], "Transformer"),
        (
            "2_Dense/config.json",
            lambda c: {**c, "activation_function": "os.system"},
            "os.system",
        ),
        ("1_Pooling/config.json", lambda c: {**c, "pooling_mode": "median"}, "median"),
    ],
)
def test_unknown_modules_are_refused_by_name(file, change, match, publish):
    folder = publish(steps=[lambda: Dense(32, 8)])
    (folder / file).write_text(json.dumps(change(json.loads((folder / file).read_text()))))
    with pytest.raises(CheckpointError, match=match):
        BertVectorizer(str(folder), pooling="checkpoint").fit(SOME)


def test_modules_that_do_not_fit_each_other_are_refused(publish):
    folder = publish(steps=[lambda: Dense(32, 8)])
    save_file({"linear.weight": torch.zeros(8, 31)}, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(CheckpointError, match="31"):
        BertVectorizer(str(folder), pooling="checkpoint").fit(SOME)


def test_layers_are_refused_beside_the_pooling_of_the_checkpoint(publish):
    folder = publish()
    with pytest.raises(ValueError, match="last layer only"):
        BertVectorizer(str(folder), pooling="checkpoint", layers="all").fit(SOME)


@pytest.mark.parametrize(("pooling", "hint"), [("cls", True), ("mean", False)])
def test_the_mean_of_a_checkpoint_pooled_otherwise_is_hinted_at(pooling, hint, recwarn, publish):
    folder = publish(pooling=pooling, steps=[Normalize])
    BertVectorizer(str(folder), max_length=32).fit(SOME)
    BertVectorizer(str(folder), max_length=32, pooling="cls").fit(SOME)
    hints = [w for w in recwarn if w.category is ModelWarning]
    assert len(hints) == hint
    assert all("pooling='checkpoint'" in str(w.message) for w in hints)
