"""What the example graphs hold and say: columns from left to right, one function a graph."""

from __future__ import annotations

from .layout import Node, Sheet

DEMO, DIFFUSION, BASE = "digseg-demo.safetensors", "digseg-demo-diffusion.safetensors", "digseg-demo-base.safetensors"
SCENE, THINGS = "scene-5.png", ("red star", "green star", "cyan square", "pink circle")
AERIAL, AERIAL_TEXT = "aerial.png", "yellow star\nred circle\nblue square"  # drawn in other colours than their own
CLIP, CLIP_TEXT, CLIP_THING = "moving_shapes.mp4", "blue star\nred circle", "red circle"
PAINT, PAINT_FROM, PAINT_TO = "red_circle.png", "red circle", "blue circle"
TAUGHT = "corrected.png"
NUCLEI, TISSUE = "digseg-nuclei.safetensors", "tissue.png"


def _load(s: Sheet, image: str, note: str, note_height: int = 180) -> tuple[Node, Node]:
    with s.column("1. Photo and model", "load"):
        loader = s.add("DiGSegCheckpointLoader", checkpoint=DEMO)
        photo = s.add("LoadImage", image=image)
        s.note(note, note_height)
    return loader, photo


def _segment(s: Sheet, loader: Node, photo: Node, text: str, **inputs) -> Node:
    return s.add(
        "DiGSegSegment",
        model=loader["MODEL"],
        clip=loader["CLIP"],
        vae=loader["VAE"],
        image=photo[0],
        text=text,
        **inputs,
    )


def text_to_mask(s: Sheet) -> None:
    loader, photo = _load(
        s,
        SCENE,
        "## Text to mask\nType what you want, **one thing a line**, and press Run.\n\nThe demo model "
        "knows eight shapes in eight colours. For photographs put a DiGSeg checkpoint into `ComfyUI/models/digseg` "
        "and choose it above.",
    )
    with s.column("2. Say what to select", "segment", 380):
        found = _segment(s, loader, photo, "\n".join((*THINGS, "blue heart")))
        s.note(
            "Something that is not in the picture gives an **empty mask**, never an error. `name: synonym, synonym` "
            "asks for the "
            "same thing in several words. `steps`, `threshold` and `resolution` at 0 take the checkpoint's own values.",
            130,
        )
    with s.column("3. Pick a mask", "result"):
        mask = s.add("DiGSegPickMask", masks=found["masks"], names=THINGS[0])
        share = s.add("PreviewAny", "Share of the picture, 0 to 1", source=mask["coverage"])
    with s.column("4. Use it anywhere", "result", 280):
        s.add("MaskPreview", "Everything that was found", mask=found["union"])
        s.note(
            "`mask` is an ordinary ComfyUI MASK, exactly 0 or 1. Connect it to inpainting, compositing, upscaling ...",
            110,
        )
    s.app([(photo, "image"), (found, "text"), (mask, "names")], [found, mask, share])


def semantic_map(s: Sheet) -> None:
    loader, photo = _load(
        s,
        SCENE,
        "## Semantic map\nEvery pixel gets the class whose mask is strongest there.\n\nThe four steps "
        "of DiGSeg Segment stand apart here: change a prompt and the photo is **not** encoded again; change a "
        "threshold and nothing is sampled again.",
    )
    with s.column("2. Encode once", "segment"):
        prompts = s.add("DiGSegPrompts", clip=loader["CLIP"], text="\n".join(THINGS))
        encoded = s.add("DiGSegEncodeImage", vae=loader["VAE"], image=photo["IMAGE"], model=loader["MODEL"])
        s.note(
            "`preset` adds the class list of ADE20K, Cityscapes, Pascal VOC, Pascal Context, COCO-Stuff or LoveDA, "
            "for checkpoints "
            "trained on photographs.",
            110,
        )
    with s.column("3. Sample and decode", "segment"):
        latents = s.add("DiGSegSampler", model=loader["MODEL"], prompts=prompts[0], image=encoded[0])
        found = s.add("DiGSegDecodeMasks", vae=loader["VAE"], masks=latents[0])
    with s.column("4. One class a pixel", "result", 460):
        classes = s.add("DiGSegSemanticMap", masks=found[0], height=560)
        s.note(
            "`save_prefix` writes palette PNGs and a `classes.txt` to ComfyUI's output folder: a data set that "
            "`train/finetune.py` can read.",
            90,
        )
    with s.column("5. Ids and shares", "result", 300):
        s.add("PreviewImage", "Class ids: 1, 2, 3 ... of 255 look black", images=classes["ids"])
        table = s.add("PreviewAny", "Id, class, share", source=classes["table"])
    s.app([(photo, "image"), (prompts, "text")], [classes, table])


def cutout(s: Sheet) -> None:
    loader, photo = _load(
        s, SCENE, "## Cut out, and put somewhere else\nThe mask comes from DiGSeg, everything after it is core ComfyUI."
    )
    with s.column("2. Select", "segment", 360):
        found = _segment(s, loader, photo, "\n".join(THINGS))
        mask = s.add("DiGSegPickMask", masks=found["masks"], names="\n".join(THINGS))
    with s.column("3. Soften the edge", "segment", 280):
        grey = s.add("MaskToImage", mask=mask["mask"])
        blurred = s.add("ImageBlur", image=grey[0], blur_radius=1, sigma=0.7)
        soft = s.add("ImageToMask", image=blurred[0], channel="red")
        inverted = s.add("InvertMask", mask=soft[0])
        s.note("Join Image with Alpha takes the part to make transparent, so the mask is inverted.", 90)
    with s.column("4. Transparent cut-out", "result", 300):
        cut = s.add("JoinImageWithAlpha", image=photo["IMAGE"], alpha=inverted[0])
        saved = s.add("SaveImage", images=cut[0], filename_prefix="digseg/cutout")
    with s.column("5. New background", "result", 300):
        backdrop = s.add("LoadImage", "Background", image="scene-3.png")
        pasted = s.add(
            "ImageCompositeMasked",
            destination=backdrop["IMAGE"],
            source=photo["IMAGE"],
            mask=soft[0],
            resize_source=True,
        )
        shown = s.add("PreviewImage", images=pasted[0])
    s.app([(photo, "image"), (found, "text"), (mask, "names"), (backdrop, "image")], [saved, shown])


def _soft_edge(s: Sheet, mask: Node, grow: int, blur: int) -> Node:
    grown = s.add("GrowMask", mask=mask["mask"], expand=grow)
    grey = s.add("MaskToImage", mask=grown[0])
    blurred = s.add("ImageBlur", image=grey[0], blur_radius=blur, sigma=max(0.5, blur / 2))
    return s.add("ImageToMask", image=blurred[0], channel="red")


def _select(s: Sheet, loader: Node, photo: Node) -> tuple[Node, Node]:
    with s.column("2. Say what to replace", "segment", 340):
        found = _segment(s, loader, photo, PAINT_FROM)
    with s.column("3. Take its mask", "segment", 320):
        return found, s.add("DiGSegPickMask", names="", masks=found["masks"])


def inpaint_demo(s: Sheet) -> None:
    loader, photo = _load(
        s,
        PAINT,
        f"## Paint over what you name\n1. segment **{PAINT_FROM}**\n2. grow and feather the mask\n3. paint "
        f"**{PAINT_TO}** into it with the small text-to-image model that comes with the pack\n4. segment "
        f"**{PAINT_TO}** in the result and measure how well it fills the region.",
    )
    found, mask = _select(s, loader, photo)
    with s.column("4. Grow and feather", "segment", 260):
        soft = _soft_edge(s, mask, 3, 2)
        s.note("Where this mask is 0 the photo stays as it is, to the last bit.", 100)
    s.row()
    with s.column("5. Text and model", "paint", 320):
        base = s.add("DiGSegBaseLoader", checkpoint=BASE)
        positive = s.add("CLIPTextEncode", "What to paint", clip=base["CLIP"], text=f"a {PAINT_TO}")
        negative = s.add("CLIPTextEncode", "What not to paint", clip=base["CLIP"], text="")
    with s.column("6. Paint inside the mask", "paint", 320):
        encoded = s.add("VAEEncode", pixels=photo["IMAGE"], vae=base["VAE"])
        masked = s.add("SetLatentNoiseMask", samples=encoded[0], mask=soft[0])
        painted = s.add(
            "KSampler",
            model=base["MODEL"],
            positive=positive[0],
            negative=negative[0],
            latent_image=masked[0],
            seed=2,
            steps=20,
            cfg=7.0,
            sampler_name="euler",
            scheduler="sgm_uniform",
            denoise=1.0,
        )
        pixels = s.add("VAEDecode", samples=painted[0], vae=base["VAE"])
    with s.column("7. Keep everything else", "paint", 320):
        result = s.add(
            "ImageCompositeMasked",
            "Photo outside, paint inside",
            destination=photo["IMAGE"],
            source=pixels[0],
            mask=soft[0],
        )
        painting = s.add("SaveImage", images=result[0], filename_prefix="digseg/inpaint")
    with s.column("8. Is it there now?", "check", 340):
        again = _segment(s, loader, result, PAINT_TO)
    with s.column("9. Its mask", "check", 320):
        there = s.add("DiGSegPickMask", masks=again["masks"], names=PAINT_TO)
    with s.column("10. Measure", "check", 320):
        scores = s.add("DiGSegCompareMasks", prediction=there["mask"], truth=mask["mask"])
        s.add("PreviewAny", "IoU of what was asked and what is found", source=scores["IoU"])
    s.app([(photo, "image"), (found, "text"), (positive, "text"), (again, "text")], [painting, scores])


def _inpaint(s: Sheet, note: str, load, steps: int, cfg: float, prompt: str, guidance: float = 0.0) -> None:
    """Segment, grow and feather, and paint with a full-size checkpoint through core nodes only."""
    loader, photo = _load(s, PAINT, note, 330)
    _, mask = _select(s, loader, photo)
    with s.column("4. Grow and feather", "segment", 280):
        soft = _soft_edge(s, mask, 4, 4)
        s.note("A hard mask leaves the old outline visible: grow it by 1 to 2 % of the picture, then blur by as much.", 90)
    s.row()
    with s.column("5. Painting model", "paint", 340):
        model, clip, vae = load(s)
    with s.column("6. Text", "paint", 320):
        positive = s.add("CLIPTextEncode", "What to paint", clip=clip, text=prompt)
        negative = s.add("CLIPTextEncode", "What not to paint", clip=clip, text="")
        if guidance:
            positive = s.add("FluxGuidance", conditioning=positive[0], guidance=guidance)
    with s.column("7. Paint inside the mask", "paint", 320):
        model = s.add("DifferentialDiffusion", model=model)
        tied = s.add(
            "InpaintModelConditioning",
            positive=positive[0],
            negative=negative[0],
            vae=vae,
            pixels=photo["IMAGE"],
            mask=soft[0],
        )
        painted = s.add(
            "KSampler",
            model=model[0],
            positive=tied["positive"],
            negative=tied["negative"],
            latent_image=tied["latent"],
            seed=1,
            steps=steps,
            cfg=cfg,
            sampler_name="euler",
            scheduler="normal",
        )
    with s.column("8. Keep everything else", "result", 340):
        pixels = s.add("VAEDecode", samples=painted[0], vae=vae)
        result = s.add(
            "ImageCompositeMasked",
            "Photo outside, paint inside",
            destination=photo["IMAGE"],
            source=pixels[0],
            mask=soft[0],
        )
        s.add("SaveImage", images=result[0], filename_prefix="digseg/inpaint")


PHOTO_HINT = (
    "\n\nReplace the photo and the DiGSeg checkpoint by your own: the demo model knows coloured shapes only. The "
    "longer side of "
    "the photo should be about {size} px."
)


def hub(repository: str, name: str, directory: str, folder: str = "") -> tuple[str, str, str]:
    """A file on Hugging Face as Sheet.files wants it; directory: below models/, folder: within the repository."""
    return name, f"https://huggingface.co/{repository}/resolve/main/{folder}{name}", directory


def inpaint_sd15(s: Sheet) -> None:
    def load(s: Sheet):
        file = s.add("CheckpointLoaderSimple", ckpt_name="sd-v1-5-inpainting.ckpt")
        s.files(file, hub("stable-diffusion-v1-5/stable-diffusion-inpainting", "sd-v1-5-inpainting.ckpt", "checkpoints"))
        return file["MODEL"], file["CLIP"], file["VAE"]

    _inpaint(
        s,
        "## Inpainting with Stable Diffusion 1.5\nPut into `ComfyUI/models/checkpoints`:\n- "
        "`sd-v1-5-inpainting.ckpt` from **stable-diffusion-v1-5/stable-diffusion-inpainting** on Hugging Face\n\nAny "
        "other SD 1.5 checkpoint works too; an inpainting one continues the surroundings better." + PHOTO_HINT.format(size=512),
        load,
        25,
        7.0,
        "a blue square wooden box, photograph",
    )


def inpaint_sdxl(s: Sheet) -> None:
    def load(s: Sheet):
        file = s.add("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")
        s.files(file, hub("stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors", "checkpoints"))
        return file["MODEL"], file["CLIP"], file["VAE"]

    _inpaint(
        s,
        "## Inpainting with SDXL\nPut into `ComfyUI/models/checkpoints`:\n- `sd_xl_base_1.0.safetensors` from "
        "**stabilityai/stable-diffusion-xl-base-1.0** on Hugging Face\n\nDifferential "
        "Diffusion lets a plain text-to-image checkpoint follow a feathered mask." + PHOTO_HINT.format(size=1024),
        load,
        25,
        6.0,
        "a blue square wooden box, photograph",
    )


def inpaint_flux_fill(s: Sheet) -> None:
    def load(s: Sheet):
        unet = s.add("UNETLoader", unet_name="flux1-fill-dev.safetensors")
        clip = s.add("DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors", type="flux")
        vae = s.add("VAELoader", vae_name="ae.safetensors")
        fill, texts = "black-forest-labs/FLUX.1-Fill-dev", "comfyanonymous/flux_text_encoders"
        s.files(unet, hub(fill, "flux1-fill-dev.safetensors", "diffusion_models"))
        s.files(clip, *(hub(texts, name, "text_encoders") for name in ("clip_l.safetensors", "t5xxl_fp16.safetensors")))
        s.files(vae, hub(fill, "ae.safetensors", "vae"))
        return unet[0], clip[0], vae[0]

    _inpaint(
        s,
        "## Inpainting with Flux Fill\nFrom **black-forest-labs/FLUX.1-Fill-dev** on Hugging Face (log in and accept its "
        "license):\n- `flux1-fill-dev.safetensors` into `ComfyUI/models/diffusion_models`\n- `ae.safetensors` into "
        "`ComfyUI/models/vae`\n\nFrom **comfyanonymous/flux_text_encoders**:\n- `clip_l.safetensors` and "
        "`t5xxl_fp16.safetensors` into `ComfyUI/models/text_encoders`" + PHOTO_HINT.format(size=1024),
        load,
        20,
        1.0,
        "a blue square wooden box",
        guidance=30.0,
    )


def uncertainty(s: Sheet) -> None:
    with s.column("1. Photo and models", "load"):
        loader = s.add("DiGSegCheckpointLoader", "CLIP and VAE", checkpoint=DEMO)
        unet = s.add("DiGSegUNETLoader", "U-Net that starts from noise", checkpoint=DIFFUSION)
        photo = s.add("LoadImage", image=SCENE)
        s.note(
            "## Where is the model unsure?\nFive noises give five masks; they are averaged, and where they disagree "
            "the map is "
            "bright.\n\nOne-step checkpoints start from no noise and have no ensemble: this graph uses the diffusion "
            "one."
        )
    with s.column("2. Five noises", "segment", 380):
        found = s.add(
            "DiGSegSegment",
            model=unet[0],
            clip=loader["CLIP"],
            vae=loader["VAE"],
            image=photo[0],
            text="\n".join(THINGS),
            ensemble=5,
            uncertainty=True,
        )
    with s.column("3. Disagreement", "result", 360):
        unsure = s.add("DiGSegUncertainty", masks=found["masks"])
        s.add("MaskPreview", "As a mask: 0 sure, 1 unsure", mask=unsure["uncertainty"])
    with s.column("4. Soft mask and threshold", "result", 360):
        soft = s.add("DiGSegPickMask", masks=found["masks"], names=THINGS[0], mode="soft")
        hard = s.add("DiGSegPickMask", masks=found["masks"], names=THINGS[0])
    with s.column("5. Threshold sweep", "result", 420):
        sweep = s.add("DiGSegCompareMasks", prediction=soft["mask"], truth=hard["mask"])
        s.add("PreviewImage", images=sweep["threshold sweep"], height=340)
        s.note(
            "The hard mask stands in for the truth here, to show the plot. Connect a mask you trust (Load Image (as "
            "Mask)) to find "
            "the best threshold for your checkpoint.",
            110,
        )


def video(s: Sheet) -> None:
    with s.column("1. Video and model", "load"):
        loader = s.add("DiGSegCheckpointLoader", checkpoint=DEMO)
        file = s.add("LoadVideo", height=430, file=CLIP)  # the page makes it this high for the preview
        parts = s.add("GetVideoComponents", video=file[0])
        s.note(
            "## Video\nFrames are segmented in chunks that fit the memory, with one progress bar. A frame's mask "
            "never depends on its "
            "neighbours: same seed, same mask."
        )
    with s.column("2. Select in every frame", "segment", 380):
        found = _segment(s, loader, parts, CLIP_TEXT)
    with s.column("3. Show", "result", 340):
        shown = s.add("CreateVideo", images=found["overlay"], fps=parts["fps"])
        s.add("SaveVideo", height=480, video=shown[0], filename_prefix="digseg/overlay")
    with s.column("4. Mask of one thing", "result", 340):
        mask = s.add("DiGSegPickMask", masks=found["masks"], names=CLIP_THING)
    with s.column("5. As a video", "result", 340):
        grey = s.add("MaskToImage", mask=mask["mask"])
        matte = s.add("CreateVideo", images=grey[0], fps=parts["fps"])
        s.add("SaveVideo", height=480, video=matte[0], filename_prefix="digseg/matte")


def video_track(s: Sheet) -> None:
    with s.column("1. Video and model", "load"):
        loader = s.add("DiGSegCheckpointLoader", checkpoint=DEMO)
        file = s.add("LoadVideo", height=430, file=CLIP)
        parts = s.add("GetVideoComponents", video=file[0])
    with s.column("2. Select in the first frame", "segment", 380):
        first = s.add("ImageFromBatch", image=parts["images"], batch_index=0, length=1)
        found = _segment(s, loader, first, CLIP_TEXT)
        s.note(
            "## Follow it through a video\nThe words choose in the first frame; ComfyUI's **SAM3 Video Track** follows from "
            "there. Older ComfyUI versions lack its nodes and show them in red: update ComfyUI, or take the graph **video**, "
            "which asks every frame anew.\n\nPut into `ComfyUI/models/checkpoints`:\n- `sam3.1_multiplex_fp16.safetensors` from "
            "**Comfy-Org/sam3.1** on Hugging Face",
            260,
        )
    with s.column("3. One mask an object", "segment", 340):
        objects = s.add("DiGSegSplitObjects", masks=found["masks"], names="", smallest=0.001)
    with s.column("4. Follow them", "paint", 340):
        sam = s.add("CheckpointLoaderSimple", ckpt_name="sam3.1_multiplex_fp16.safetensors")
        s.files(sam, hub("Comfy-Org/sam3.1", "sam3.1_multiplex_fp16.safetensors", "checkpoints", "checkpoints/"))
        tracked = s.add(
            "SAM3_VideoTrack", images=parts["images"], model=sam["MODEL"], initial_mask=objects["objects"], max_objects=64
        )
        mask = s.add("SAM3_TrackToMask", track_data=tracked[0], object_indices="")
    with s.column("5. As a video", "result", 340):
        grey = s.add("MaskToImage", mask=mask[0])
        matte = s.add("CreateVideo", images=grey[0], fps=parts["fps"])
        s.add("SaveVideo", height=480, video=matte[0], filename_prefix="digseg/tracked")


def tiled_aerial(s: Sheet) -> None:
    loader, photo = _load(
        s,
        AERIAL,
        "## Large images in tiles\nAn aerial photograph seen as a whole loses its small things. With `tile` at "
        "128 the photo is cut into overlapping squares of 128 px, each segmented at full sharpness; the masks fade "
        "into each other, without seams.\n\nOn your photos take tiles of 512 to 1024 px.",
    )
    with s.column("2. Whole, for comparison", "segment", 360):
        whole = _segment(s, loader, photo, AERIAL_TEXT)
    with s.column("3. In tiles", "segment", 360):
        tiled = _segment(s, loader, photo, AERIAL_TEXT, tile=128)
    with s.column("4. Map", "result", 460):
        s.add("DiGSegSemanticMap", "Whole", masks=whole["masks"], height=470)
        s.add("DiGSegSemanticMap", "In tiles", masks=tiled["masks"], height=470)


def count_objects(s: Sheet) -> None:
    loader, photo = _load(
        s,
        AERIAL,
        "## Count, sort and pick\nDiGSeg Split Objects takes the masks apart: one object for every connected part, with its box, "
        "its size and its score.\n\n`sort`, `keep` and `number` choose for every prompt by itself: **sort left, number 1** is "
        "the leftmost of each.",
        230,
    )
    with s.column("2. Say what to count", "segment", 360):
        found = _segment(s, loader, photo, AERIAL_TEXT, tile=128)
    with s.column("3. Every object", "result", 420):
        objects = s.add("DiGSegSplitObjects", masks=found["masks"], names="", smallest=0.0002, padding=3)
    with s.column("4. How many, and where", "result", 320):
        s.add("PreviewAny", "How many", source=objects["count"])
        s.add("PreviewAny", "Each with its box, as JSON", height=300, source=objects["table"])
        s.note("`boxes` and `SEGS` go to ComfyUI's detection nodes and to Impact Pack as they are.", 90)
    with s.column("5. The leftmost of each", "result", 420):
        s.add("DiGSegSplitObjects", "sort left, number 1", masks=found["masks"], names="", smallest=0.0002, sort="left", number=1)
    with s.column("6. One mask a prompt", "result", 320):
        each = s.add("DiGSegListMasks", masks=found["masks"], names="")
        grey = s.add("MaskToImage", mask=each["batch"])
        s.add("PreviewImage", "In the prompts' order", images=grey[0])


def nuclei(s: Sheet) -> None:
    with s.column("1. Photo and models", "load"):
        s.note(
            "## A model trained on real pictures\n`digseg-nuclei` is the demo model, fine-tuned with one command on 489 "
            "microscope pictures of cell nuclei (public domain). docs/nuclei.md has the way there and its scores.\n\nThis tissue "
            "was stained in a way it never saw: it finds most of the blue nuclei between the glands and few of those inside.",
            230,
        )
        loader = s.add("DiGSegCheckpointLoader", "CLIP and VAE", checkpoint=DEMO)
        unet = s.add("DiGSegUNETLoader", "U-Net that knows nuclei", checkpoint=NUCLEI)
        photo = s.add("LoadImage", image=TISSUE)
    with s.column("2. Ask", "segment", 360):
        found = s.add("DiGSegSegment", model=unet[0], clip=loader["CLIP"], vae=loader["VAE"], image=photo[0], text="nucleus")
    with s.column("3. Every nucleus", "result", 420):
        objects = s.add("DiGSegSplitObjects", masks=found["masks"], names="", smallest=0.0005)
    with s.column("4. How many, and where", "result", 320):
        s.add("PreviewAny", "How many", source=objects["count"])
        s.add("PreviewAny", "Each with its box, as JSON", height=300, source=objects["table"])


def teach(s: Sheet) -> None:
    loader, photo = _load(
        s,
        PAINT,
        "## Teach it what it gets wrong\n1. segment a photo\n2. correct the mask in ComfyUI's own mask editor\n3. save photo and "
        "mask as a training pair\n\nTen pairs are enough to begin with. Then train a LoRA and load it with Load DiGSeg LoRA.",
        230,
    )
    with s.column("2. Segment", "segment", 360):
        found = _segment(s, loader, photo, PAINT_FROM)
    with s.column("3. Mask as transparency", "segment", 320):
        cut = s.add("JoinImageWithAlpha", image=photo["IMAGE"], alpha=found["union"])
        s.add("SaveImage", images=cut[0], filename_prefix="digseg/teach")
        s.note(
            "Run once. The picture then lies in `output/digseg`: in the next step put **Load Image (from Outputs)** in the place "
            "of Load Image, and choose it. (The picture there now was corrected already.)",
            130,
        )
    with s.column("4. Correct it", "check", 320):
        better = s.add("LoadImage", "Right-click: Open in MaskEditor", image=TAUGHT)
        s.note("Paint what is missing, erase what is too much, **Save**. An empty mask teaches that the thing is not there.", 100)
    with s.column("5. Save the pair", "result", 380):
        pair = s.add("DiGSegSavePair", image=better["IMAGE"], mask=better["MASK"], class_name=PAINT_FROM, data_set="my-data")
        s.add("PreviewAny", "The data set", source=pair["data file"])
        s.note(
            "Next, in the pack's folder, with the path above as FILE:\n\n`python train/check_data.py FILE`\n\n`python "
            "train/finetune.py --config train/configs/lora_example.yaml data=FILE`\n\n`digseg-lora.safetensors` goes into "
            "`ComfyUI/models/loras`.",
            170,
        )


def stock_sampler(s: Sheet) -> None:
    with s.column("1. Photo and models", "load"):
        loader = s.add("DiGSegCheckpointLoader", "CLIP and VAE", checkpoint=DEMO)
        unet = s.add("DiGSegUNETLoader", "U-Net that starts from noise", checkpoint=DIFFUSION)
        photo = s.add("LoadImage", image=SCENE)
        s.note(
            "## ComfyUI's own samplers\nDiGSeg Conditioning ties the photo to the text; from there on any sampler "
            "works at "
            "**cfg 1**.\n\nSamplerCustom with DiGSeg Scheduler visits the same noise levels as DiGSeg Sampler; "
            "KSampler with "
            "`simple` does so when the steps divide 1000. The noise is the same too, so the masks agree with DiGSeg "
            "Sampler's "
            "but for rounding.\n\nOne-step checkpoints start from no noise: they need DiGSeg Sampler.",
            240,
        )
    with s.column("2. Tie the photo to the text", "segment"):
        text = s.add("CLIPTextEncode", clip=loader["CLIP"], text=THINGS[0])
        encoded = s.add("DiGSegEncodeImage", vae=loader["VAE"], image=photo["IMAGE"], model=unet["MODEL"])
        tied = s.add("DiGSegConditioning", conditioning=text[0], image=encoded[0], name=THINGS[0])
    common = {"model": unet["MODEL"], "cfg": 1.0, "positive": tied[0], "negative": tied[0], "latent_image": tied[1]}
    with s.column("3. Sample", "paint"):
        sampler = s.add("KSamplerSelect", sampler_name="euler")
        sigmas = s.add("DiGSegSigmas", model=unet["MODEL"], steps=10)
        custom = s.add("SamplerCustom", add_noise=True, noise_seed=0, sampler=sampler[0], sigmas=sigmas[0], **common)
        plain = s.add("KSampler", seed=0, steps=10, sampler_name="euler", scheduler="simple", **common)
    with s.column("4. Masks", "result"):
        for title, latents in (("SamplerCustom", custom[0]), ("KSampler", plain[0])):
            found = s.add("DiGSegDecodeMasks", title, vae=loader["VAE"], masks=latents)
            s.add("DiGSegPickMask", title, masks=found[0], names="")


PAINTING = ("inpaint_sd15", "inpaint_sdxl", "inpaint_flux_fill")
BIG = (*PAINTING, "video_track")
"""Graphs that need files which do not come with the pack."""
GRAPHS = {
    function.__name__: function
    for function in (
        text_to_mask,
        semantic_map,
        cutout,
        inpaint_demo,
        inpaint_sd15,
        inpaint_sdxl,
        inpaint_flux_fill,
        uncertainty,
        video,
        video_track,
        tiled_aerial,
        count_objects,
        nuclei,
        teach,
        stock_sampler,
    )
}
