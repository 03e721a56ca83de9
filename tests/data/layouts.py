"""The nine shared clips in every layout that a reader knows; tests that use them skip where they are absent."""

import csv
import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from media.makers import SHARED_CLIPS

needs_clips = pytest.mark.skipif(not SHARED_CLIPS.exists(), reason="the shared clips are not here")


def shared_captions():
    """[(file name, caption)] of the nine clips, in the order of their names."""
    lines = (SHARED_CLIPS / "captions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return sorted((row["file"], row["caption"]) for row in rows)


def write_layout(kind: str, folder: Path) -> Path:
    """Write the nine clips as `kind` (a key of LAYOUTS) into `folder`; the path that a source would name."""
    folder.mkdir(parents=True, exist_ok=True)
    return LAYOUTS[kind](folder)


def slug(caption):
    """A caption as a file name; _ and - read as spaces give its first words back."""
    return re.sub(r"[^A-Za-z]+", "_", caption).strip("_")[:80].strip("_")


def _copied(folder, names):
    """Copies, not links: a test may damage its own, and links out of a dataset's folder are refused."""
    for (file, _), name in zip(shared_captions(), names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SHARED_CLIPS / file, folder / name)


def _below_videos(folder):
    """[(path from the folder, caption)], files copied to videos/."""
    rows = [(f"videos/{file}", caption) for file, caption in shared_captions()]
    _copied(folder, [path for path, _ in rows])
    return rows


def _write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _folder(folder):
    _copied(folder, [file for file, _ in shared_captions()])
    for file, caption in shared_captions():
        (folder / file).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def _names(folder):
    _copied(folder, [slug(caption) + ".mp4" for _, caption in shared_captions()])
    return folder


def _csv(folder):
    return _write_csv(folder / "clips.csv", ("path", "caption"), _below_videos(folder))


def _jsonl(folder):
    lines = [json.dumps({"file": path, "caption": caption}) for path, caption in _below_videos(folder)]
    (folder / "clips.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "clips.jsonl"


def _parquet(folder):
    import pyarrow as pa
    from pyarrow import parquet

    paths, captions = zip(*_below_videos(folder), strict=True)
    parquet.write_table(pa.table({"video": list(paths), "caption": list(captions)}), folder / "clips.parquet")
    return folder / "clips.parquet"


def _datasets(folder):
    """As `save_to_disk` of Hugging Face's datasets leaves it; the clips lie in the same folder."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    paths, captions = zip(*_below_videos(folder), strict=True)
    Dataset.from_dict({"video": list(paths), "caption": list(captions)}).save_to_disk(str(folder))
    return folder


def _easyanimate_json(folder):
    rows = [{"file_path": path, "text": caption, "type": "video"} for path, caption in _below_videos(folder)]
    rows[0] |= {"width": 720, "height": 480}
    (folder / "metadata.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return folder / "metadata.json"


def _easyanimate_csv(folder):
    rows = [(path, caption, "video") for path, caption in _below_videos(folder)]
    return _write_csv(folder / "metadata.csv", ("file_path", "text", "type"), rows)


def _webvid(folder):
    """Ids with leading zeros, pages in two folders, and the columns that nobody needs empty or NA."""
    header = ("videoid", "contentUrl", "duration", "page_dir", "name", "dynamic_confidence")
    rows = []
    for number, (_, caption) in enumerate(shared_captions()):
        rows.append((f"{number:05d}", "", "NA", f"page_{number % 2}", caption, ""))
    _copied(folder, [f"videos/{row[3]}/{row[0]}.mp4" for row in rows])
    return _write_csv(folder / "data.csv", header, rows)


def _prompts(folder):
    paths, captions = zip(*_below_videos(folder), strict=True)
    (folder / "prompts.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    (folder / "videos.txt").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return folder


def _cogvideox_csv(folder):
    """Every value in three double quotes, as the guide of the CogVideoX scripts shows it."""
    rows = [("caption", "video"), *(('"""' + text + '"""', f'"""{path}"""') for path, text in _below_videos(folder))]
    (folder / "metadata.csv").write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "metadata.csv"


def _pairs(folder):
    """First and last frame of each clip; no captions."""
    import av

    for file, _ in shared_captions():
        with av.open(str(SHARED_CLIPS / file)) as container:
            frames = [*container.decode(video=0)]
        stem = Path(file).stem
        frames[0].to_image().save(folder / f"{stem}_start.png")
        frames[-1].to_image().save(folder / f"{stem}_END.JPG", format="JPEG")
    return folder


def _webdataset(folder):
    """Two shards of KEY.mp4 and KEY.txt."""
    _copied(folder / "loose", [file for file, _ in shared_captions()])
    for number in range(2):
        with tarfile.open(folder / f"clips-{number:05d}.tar", "w") as tar:
            for file, caption in shared_captions()[number::2]:
                text = folder / "loose" / Path(file).with_suffix(".txt")
                text.write_text(caption, encoding="utf-8")
                tar.add(folder / "loose" / file, file)
                tar.add(text, text.name)
    shutil.rmtree(folder / "loose")
    return folder


LAYOUTS = {
    "folder": _folder,
    "names": _names,
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "datasets": _datasets,
    "easyanimate-json": _easyanimate_json,
    "easyanimate-csv": _easyanimate_csv,
    "webvid": _webvid,
    "prompts": _prompts,
    "cogvideox-csv": _cogvideox_csv,
    "pairs": _pairs,
    "webdataset": _webdataset,
}
