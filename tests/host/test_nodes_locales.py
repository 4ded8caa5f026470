"""What the page shows in English is what the nodes say, for all of them."""

from __future__ import annotations

import json

from tools.locale import ENGLISH, english


def test_english_agrees_with_the_schemas(object_info):
    written = json.loads(ENGLISH.read_text(encoding="utf-8"))
    assert written == english(object_info), "run `python -m tools.locale --url ...`"


def test_comfyui_serves_the_translations(client):
    served = client.get("/i18n")
    for language in ("en", "zh"):
        file = json.loads((ENGLISH.parent.parent / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert {key: served[language]["nodeDefs"].get(key) for key in file} == file
    assert served["zh"]["nodeCategories"]["DiGSeg"] != served["en"]["nodeCategories"]["DiGSeg"]
