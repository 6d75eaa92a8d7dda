"""A client that is generated from the OpenAPI document works, as another project would generate it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from comel.bags.bag import write_bag
from service.access.keys import KeyStore
from service.settings import ServiceSettings
from tests.places import ROOT
from tests.service.generated import listening
from tests.service.in_process import app_with

ASKING = """
import sys
from pathlib import Path
from made.client import AuthenticatedClient
from made.api.models import list_models
from made.api.predictions import list_predictions, predict, read_instances, read_prediction
from made.models import PredictionAnswer, PredictFilesBody, SourceRequest
from made.types import File

address, key, bag = sys.argv[1:]
client = AuthenticatedClient(base_url=address, token=key)
print(list_models.sync(client=client).items[0].name)
with open(bag, "rb") as content:
    form = PredictFilesBody(bag=File(payload=content, file_name="a.h5", mime_type="application/x-hdf5"))
    made = predict.sync(client=client, body=form)
assert isinstance(made, PredictionAnswer), made
assert read_prediction.sync(made.id, client=client).prediction.label == made.prediction.label == "tumour"
assert read_instances.sync(made.id, client=client).instances.scores == made.instances.scores
assert [entry.id for entry in list_predictions.sync(client=client).items] == [made.id]
refused = predict.sync_detailed(client=client, body=SourceRequest(slide="missing.svs"))
print(refused.status_code.value, refused.parsed.status)
"""


def run(*command: object, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, check=False, **how)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with openapi-python-client, whose dependencies do not fit ours."""
    folder = tmp_path_factory.mktemp("generator")
    venv.create(folder, with_pip=True)
    done = run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "openapi-python-client>=0.24")
    if done.returncode:
        pytest.skip("openapi-python-client cannot be installed: no package index")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_generated_client_works(
    generator: Path, settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    key = KeyStore(settings.state_dir).add("lims", "predict")
    write_bag(tmp_path / "a.h5", make_bag([0.2, 0.8, 0.6]))
    app = app_with(settings, predictor)
    (tmp_path / "openapi.json").write_text(json.dumps(app.openapi()))
    guide = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(dedent(re.findall(r"client\.yaml <<END\n(.*?)    END\n", guide, re.DOTALL)[0]))
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # ruff, which tidies what is generated
    program = generator / "bin" / "openapi-python-client"
    made = run(
        program,
        *("generate", "--path", "openapi.json", "--output-path", "made", "--meta", "none", "--config", "config.yaml"),
        cwd=tmp_path,
        env=os.environ | tools,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "WARNING" not in made.stdout
    with listening(app) as address:
        asked = run(generator / "bin" / "python", "-c", ASKING, address, key, tmp_path / "a.h5", cwd=tmp_path)
    assert asked.stdout.split() == ["breast", "404", "404"], asked.stderr
