"""The loader's list: files, and diffusers folders as one entry each."""

import pytest


@pytest.fixture
def folder(host, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    folder_paths.folder_names_and_paths.pop("digseg", None)
    (tmp_path / "bundled").mkdir()
    host.register_folders(tmp_path / "bundled")
    return tmp_path / "models" / "digseg"


def test_files_and_folders(host, folder, tmp_path):
    for name in (
        "own.safetensors",
        "deep/er.safetensors",
        "marigold/unet/diffusion_pytorch_model.safetensors",
        "marigold/model_index.json",
        "notes.txt",
        "old.ckpt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (tmp_path / "bundled" / "demo.safetensors").write_bytes(b"")
    assert sorted(host.checkpoint_names()) == ["deep/er.safetensors", "demo.safetensors", "marigold", "own.safetensors"]
    assert host.checkpoint_path("marigold") == folder / "marigold"
    assert host.checkpoint_path("demo.safetensors") == tmp_path / "bundled" / "demo.safetensors"
    with pytest.raises(ValueError, match=r"There is no checkpoint 'gone'.*found there now: .*marigold"):
        host.checkpoint_path("gone")
