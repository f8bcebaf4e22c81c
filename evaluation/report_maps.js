// Class maps: where the network saw a class, in colours over the photo of the dialog.
const classMaps = (() => {
  const ENLARGED = 24;  // pixels of the canvas per position of a map
  const SIDE = 1024;  // about as many pixels at most on each side
  const EVERYWHERE = 200;  // of 255: above this all colours look alike
  const element = (tag, name, text) => Object.assign(
    document.createElement(tag), { className: name, textContent: text || "" });
  // The open photo: its maps, the layer over it, the rows of its classes, and two classes or -1.
  let open = {};

  function hint({ scale }, photos) {
    const cut = photos.some(({ maps }) => maps && Math.min(maps.area[2], maps.area[3]) < 0.995);
    const made = element("p", "small hint", "Point at a class, or tap it, to see where it was seen. "
      + (cut ? "The grey margin is outside of what the network saw. " : "")
      + "The colour of a place is the class's probability if the whole image looked like it:");
    const key = element("span", "key-of-maps");
    const bar = element("i", "");
    bar.style.background = `linear-gradient(to right, ${scale.filter((_, i) => i % 15 === 0)})`;
    key.append("threshold, or below", bar, "1");
    made.append(key);
    return made;
  }

  // Puts the photo's picture into a frame with a layer for the maps over it.
  function frame(picture, photo) {
    const made = element("div", "frame");
    const layer = element("div", "layer");
    const canvas = element("canvas", "");
    const { shape: [rows, columns], area: [left, top, width, height] } = photo.maps;
    const enlarged = Math.min(ENLARGED, Math.ceil(SIDE / Math.max(columns, rows)));
    [canvas.width, canvas.height] = [columns * enlarged, rows * enlarged];
    canvas.setAttribute("role", "img");
    // The network may see a part of the photo, or padding around it.
    Object.assign(canvas.style, {
      left: `${100 * left}%`, top: `${100 * top}%`,
      width: `${100 * width}%`, height: `${100 * height}%` });
    layer.hidden = true;
    layer.append(canvas, element("p", "", ""));
    made.append(picture, layer);
    open = { maps: photo.maps, layer, canvas, rows: new Map(), pointed: -1, pinned: -1 };
    return made;
  }

  function draw(canvas, { shape: [rows, columns] }, bytes, { scale, opacity }) {
    const small = element("canvas", "");
    [small.width, small.height] = [columns, rows];
    const grey = new ImageData(columns, rows);
    bytes.forEach((value, i) => grey.data.set([value, value, value, 255], 4 * i));
    small.getContext("2d").putImageData(grey, 0, 0);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    const image = context.getImageData(0, 0, canvas.width, canvas.height);
    const colours = scale.map((text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)));
    for (let i = 0; i < image.data.length; i += 4) {
      image.data.set(colours[image.data[i]], i);
      image.data[i + 3] = 255 * opacity;
    }
    context.putImageData(image, 0, 0);
  }

  function refresh(colours) {
    const shown = open.pointed >= 0 ? open.pointed : open.pinned;
    for (const [c, row] of open.rows) {
      row.classList.toggle("shown", c === shown);
      row.querySelector("button").setAttribute("aria-pressed", String(c === open.pinned));
    }
    open.layer.hidden = shown < 0;
    if (shown < 0) return;
    const bytes = Uint8Array.from(atob(open.maps.classes[shown]), (letter) => letter.charCodeAt(0));
    draw(open.canvas, open.maps, bytes, colours);
    const name = open.rows.get(shown).querySelector("button").textContent;
    open.canvas.setAttribute("aria-label", `Where ${name} was seen`);
    const note = open.layer.lastChild;
    note.textContent = bytes.every((value) => value === 0) ? "Nowhere above the threshold"
      : bytes.every((value) => value >= EVERYWHERE) ? "Everywhere: no place stands out" : "";
    note.hidden = !note.textContent;
  }

  // Lets the row of a class show its map: at once under a mouse or with the focus of a keyboard,
  // and for good after a click or tap, until the next.
  function listen(row, c, colours) {
    const name = element("button", "");
    name.type = "button";
    name.append(row.cells[0].firstChild);
    row.cells[0].prepend(name);
    row.classList.add("mapped");
    open.rows.set(c, row);
    const point = (at) => {
      open.pointed = at;
      refresh(colours);
    };
    row.addEventListener("pointerenter", ({ pointerType }) => pointerType === "mouse" && point(c));
    row.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && point(-1));
    name.addEventListener("focus", () => name.matches(":focus-visible") && point(c));
    name.addEventListener("blur", () => point(-1));
    row.addEventListener("click", () => {
      open.pinned = open.pinned === c ? -1 : c;
      refresh(colours);
    });
    refresh(colours);
  }

  return { hint, frame, listen };
})();
