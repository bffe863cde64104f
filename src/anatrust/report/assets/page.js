"use strict";
// The page's behaviour. Everything it knows is in the element #settings; it asks the network for
// nothing. State that tests and styles read is on the root element: data-ready ("webgl" or
// "pictures"), data-crosshair (world position), data-selected (candidate number).
(() => {
  const root = document.documentElement;
  const find = (id) => document.getElementById(id);
  const settings = JSON.parse(find("settings").textContent);
  const canvas = find("canvas");
  const place = find("place");
  const groups = [...document.querySelectorAll("tbody[data-number]")];
  const worlds = new Map(settings.entries.map((entry) => [entry.number, entry.world]));
  let viewer = null;

  // ---- candidates ------------------------------------------------------------------------
  const select = (number) => {
    root.dataset.selected = String(number);
    for (const group of groups) {
      const chosen = Number(group.dataset.number) === number;
      group.classList.toggle("selected", chosen);
      const button = group.querySelector("button.go");
      if (chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    for (const figure of document.querySelectorAll("figure[data-number]")) {
      figure.classList.toggle("selected", Number(figure.dataset.number) === number);
    }
    if (viewer) viewer.goTo(worlds.get(number));
    else showStill(number);
  };

  for (const group of groups) {
    const number = Number(group.dataset.number);
    group.addEventListener("click", (event) => {
      // Marking text to copy it must not move the view.
      if (event.target.closest("button") || String(window.getSelection()) === "") select(number);
    });
  }
  for (const figure of document.querySelectorAll("figure[data-number]")) {
    const number = Number(figure.dataset.number);
    if (worlds.has(number)) figure.addEventListener("click", () => select(number));
  }

  // Sets and crops have a place, but no row in the table.
  for (const element of document.querySelectorAll("[data-world]")) {
    const world = element.dataset.world.split(",").map(Number);
    element.addEventListener("click", () => {
      if (!viewer) return;
      viewer.goTo(world);
      if (element.tagName === "BUTTON") find("viewer-title").parentElement.scrollIntoView({ block: "nearest" });
    });
  }

  const table = document.querySelector("#candidates table");
  if (table) {
    table.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !event.target.matches("button.go")) return;
      const buttons = [...table.querySelectorAll("tbody:not([hidden]) button.go")];
      const next = buttons[buttons.indexOf(event.target) + step];
      if (next) next.focus();
      event.preventDefault();
    });
    for (const button of table.querySelectorAll("button.sort")) {
      button.addEventListener("click", () => sortBy(button));
    }
  }

  for (const box of document.querySelectorAll(".filter input")) {
    box.addEventListener("change", () => {
      for (const group of groups) if (group.classList.contains(box.dataset.outcome)) group.hidden = !box.checked;
    });
  }

  const sortBy = (button) => {
    const heading = button.closest("th");
    const falling = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (group) => JSON.parse(group.dataset.sort)[button.dataset.key];
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      // What has no figure comes last, whichever way the others go.
      if (x === null || y === null) return (x === null) - (y === null);
      return falling ? y - x : x - y;
    };
    for (const group of [...groups].sort(order)) table.append(group);
  };

  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });

  // ---- pictures instead of the viewer ----------------------------------------------------
  const showStill = (number) => {
    const figure = document.querySelector(`figure[data-number="${number}"]`);
    const image = figure && figure.querySelector("img");
    if (!image) {
      place.textContent = `No picture of number ${number} is in this page.`;
      return;
    }
    find("still").src = image.src;
    find("still").alt = image.alt;
    place.textContent = image.alt;
    if (worlds.has(number)) root.dataset.crosshair = worlds.get(number).join(",");
  };

  const withoutViewer = (why) => {
    root.dataset.ready = "pictures";
    canvas.hidden = true;
    find("still").hidden = false;
    find("hint").textContent =
      `The interactive viewer needs WebGL2, which this browser does not offer (${why}). Key slices are shown instead.`;
    for (const control of document.querySelectorAll(".tools input, .tools select")) control.disabled = true;
    const first = document.querySelector("figure[data-number]");
    if (first) showStill(Number(first.dataset.number));
  };

  // ---- the viewer ------------------------------------------------------------------------
  // The viewer makes every overlay voxel either opaque or clear, except below the threshold of
  // this mode, where opacity is (value / threshold)². A drawn mask holds 10 on the outline and 6
  // inside, so that tissue shines through the inside; a probability fades towards 0.
  const FADE_BELOW_THRESHOLD = 1;
  const colourMap = ([red, green, blue]) => ({
    R: [0, red, red],
    G: [0, green, green],
    B: [0, blue, blue],
    A: [0, 255, 255],
    I: [0, 1, 255],
  });

  const start = async () => {
    const { DRAG_MODE, NVImage, Niivue, SLICE_TYPE } = window.niivue;
    const types = { axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL };
    types.all = SLICE_TYPE.MULTIPLANAR;
    const fieldOfView = Math.max(...settings.extent);
    const nv = new Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [1, 1, 1, 0.55],
      crosshairGap: 14,
      crosshairWidth: fieldOfView / 400,
      crosshairWidthUnit: "mm",
      dragAndDropEnabled: false,
      dragMode: DRAG_MODE.windowing,
      fontColor: [0.75, 0.75, 0.75, 1],
      isColorbar: false,
      isOrientationTextVisible: settings.raster === null,
      isRadiologicalConvention: true,
      isSliceMM: true,
      logLevel: "error",
      sliceType: types[settings.plane],
    });
    await nv.attachToCanvas(canvas);

    const opacity = find("opacity");
    const load = async (name) => {
      const element = find(`volume-${name}`);
      const volume = await NVImage.loadFromBase64({ base64: element.textContent, name: `${name}.nii.gz` });
      element.remove();
      return volume;
    };
    const first = settings.windows[0];
    const scan = await load("scan");
    scan.cal_min = first.low;
    scan.cal_max = first.high;
    const volumes = [scan];
    const layers = new Map();
    for (const layer of settings.layers) {
      const volume = await load(layer.name);
      nv.addColormap(`anatrust-${layer.name}`, colourMap(layer.colour));
      volume.colormap = `anatrust-${layer.name}`;
      volume.colormapType = FADE_BELOW_THRESHOLD;
      volume.cal_min = layer.top;
      volume.cal_max = layer.top;
      volume.opacity = layer.on ? Number(opacity.value) / 100 : 0;
      layers.set(layer.name, { index: volumes.length, on: layer.on });
      volumes.push(volume);
    }
    // Adding the last one uploads them all; adding each would upload the first ones again and again.
    nv.volumes.push(...volumes.slice(0, -1));
    nv.addVolume(volumes.at(-1));

    const text = (value, places) => value.toFixed(places).replace("-", "−");
    const digits = (value) => (Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 1 ? 1 : 3);
    const inside = (values) =>
      settings.layers
        .filter((layer) => layer.pattern !== "shade" && values[layers.get(layer.name).index].value > 0)
        .map((layer) => (layer.group ? `${layer.title} set of ${layer.group}` : layer.name));
    // A picture is told in its own rows and columns, a patient in world coordinates (RAS+).
    const where = (world) =>
      settings.raster
        ? `row ${Math.round(-world[1] / settings.raster[0])}, column ${Math.round(-world[0] / settings.raster[1])}`
        : `${world.map((v) => text(v, 1)).join(", ")} ${settings.unit}`;
    nv.onLocationChange = ({ mm, values }) => {
      const world = [...mm].slice(0, 3);
      root.dataset.crosshair = world.map((v) => v.toFixed(2)).join(",");
      const value = values[0].value;
      const parts = [where(world)];
      if (Number.isFinite(value)) parts.push(`value ${text(value, digits(value))} ${settings.units}`.trim());
      place.textContent = parts.concat(inside(values)).join("  ·  ");
    };

    // Zoom keeps the cross in the middle; 1 shows everything.
    let zoom = 1;
    const frame = () => {
      const centre = nv.frac2mm([0.5, 0.5, 0.5], 0, true);
      const cross = nv.frac2mm(nv.scene.crosshairPos, 0, true);
      const pan = [0, 1, 2].map((i) => (zoom === 1 ? 0 : centre[i] - zoom * cross[i]));
      nv.scene.pan2Dxyzmm = [...pan, zoom];
    };
    const goTo = (world) => {
      nv.scene.crosshairPos = nv.mm2frac(world);
      frame();
      nv.createOnLocationChange();
      nv.drawScene();
    };

    // The axial plane large and the other two beside or below it, whichever shows it larger; the
    // stage is as high as that needs, so that little of it stays black.
    const stage = canvas.parentElement;
    const [across, deep, tall] = [0, 1, 2].map((axis) => settings.extent[axis] ?? 0);
    const flat = { axial: deep / across, coronal: tall / across, sagittal: tall / deep };
    const gap = 0.01;
    const layouts = () => {
      const [side, below] = [flat.axial, flat.coronal + flat.sagittal];
      const left = Math.min(0.75, Math.max(0.4, below / (below + side)));
      const right = 1 - left - gap;
      const beside = Math.max(left * side, right * below + gap);
      const half = (across - gap * across) / (across + deep);
      const under = half * flat.coronal;
      const whole = side + gap + under;
      const top = (right * flat.coronal) / beside;
      return [
        {
          height: beside,
          large: left,
          tiles: [
            [0, 0, left, 1],
            [left + gap, 0, right, top],
            [left + gap, top + gap, right, 1 - top - gap],
          ],
        },
        {
          height: whole,
          large: 1,
          tiles: [
            [0, 0, 1, side / whole],
            [0, (side + gap) / whole, half, under / whole],
            [half + gap, (side + gap) / whole, 1 - half - gap, under / whole],
          ],
        },
      ];
    };
    const arrange = (plane) => {
      const width = stage.clientWidth;
      const most = Math.max(260, Math.min(0.7 * window.innerHeight, 640));
      const fit = (height) => Math.max(240, Math.min(most, height * width));
      let tiles = [];
      let height = settings.extent.length === 2 ? deep / across : flat[plane];
      if (plane === "all") {
        // How wide the axial plane becomes once the height is bounded.
        const seen = (layout) => layout.large * Math.min(1, most / (layout.height * width));
        const [beside, below] = layouts();
        const best = seen(beside) >= seen(below) ? beside : below;
        ({ tiles, height } = best);
      }
      stage.style.height = `${Math.round(fit(height))}px`;
      const planes = ["axial", "coronal", "sagittal"];
      nv.customLayout = tiles.map((position, i) => ({ sliceType: types[planes[i]], position }));
      nv.resizeListener();
      nv.setSliceType(types[plane]);
    };

    const showLayers = () => {
      for (const { index, on } of layers.values()) {
        nv.volumes[index].opacity = on ? Number(opacity.value) / 100 : 0;
      }
      nv.updateGLVolume();
    };
    for (const box of document.querySelectorAll("input[data-layer]")) {
      box.addEventListener("change", () => {
        layers.get(box.dataset.layer).on = box.checked;
        showLayers();
      });
    }
    if (opacity) opacity.addEventListener("input", showLayers);
    find("window").addEventListener("change", (event) => {
      const { low, high } = settings.windows[Number(event.target.value)];
      nv.volumes[0].cal_min = low;
      nv.volumes[0].cal_max = high;
      nv.updateGLVolume();
    });
    const view = find("view");
    const look = () => arrange(view ? view.value : settings.plane);
    if (view) view.addEventListener("change", look);
    window.addEventListener("resize", look);
    find("zoom").addEventListener("change", (event) => {
      zoom = Number(event.target.value);
      nv.opts.crosshairWidth = fieldOfView / 400 / zoom;
      if (nv.crosshairs3D) nv.crosshairs3D.mm = [NaN, NaN, NaN];
      frame();
      nv.drawScene();
    });

    // The library's own keys (one of them opens an alert) give way to those the page names:
    // a listener in the capturing phase runs before the library's.
    const moves = {
      ArrowRight: [-1, 0, 0],
      ArrowLeft: [1, 0, 0],
      ArrowUp: [0, 1, 0],
      ArrowDown: [0, -1, 0],
      PageUp: [0, 0, 1],
      PageDown: [0, 0, -1],
    };
    for (const kind of ["keydown", "keyup"]) {
      canvas.addEventListener(
        kind,
        (event) => {
          event.stopImmediatePropagation();
          const move = moves[event.key];
          if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
          event.preventDefault();
          // A step is a voxel of the scan, whose voxels may be drawn finer.
          if (kind === "keydown") nv.moveCrosshairInVox(...move.map((way, axis) => way * (settings.step[axis] ?? 1)));
        },
        true,
      );
    }

    look();
    viewer = { goTo };
    if (settings.entries.length) select(settings.entries[0].number);
    else goTo([...nv.frac2mm([0.5, 0.5, 0.5], 0, true)].slice(0, 3));
    root.dataset.ready = "webgl";
  };

  start().catch((error) => withoutViewer(error.message));
})();
