// The page: table, choice of a class, photos.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 24;  // cards
  const CHIPS = 8;  // of a kind on a card; the dialog shows all
  const get = (id) => document.getElementById(id);
  const [filter, sheet, more, table, dialog] = ["filter", "sheet", "more", "classes", "photo"].map(get);
  const words = {
    wrong: "Images with the largest difference between probability and label in a wrong decision",
    fixed: "Decisions that are right here and wrong in the other run",
    broken: "Decisions that are wrong here and right in the other run",
    false_negatives: "Labels that are present, but not predicted, the lowest probability first",
    false_positives: "Classes that are predicted, but absent, the highest probability first",
    suspects: "Labels that the probabilities contradict most, by confident learning (Northcutt et al., "
      + "JAIR 2021), from this network; labels that it was trained on it cannot judge",
    random: "Images drawn at random",
  };
  const kinds = {
    true_positives: "true positive", false_positives: "false positive",
    false_negatives: "false negative", unknown: "label unknown",
  };
  const state = { sheet: "wrong", chosen: -1, shown: PAGE, listed: [], open: -1 };

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Two digits, more where these would round to 0 or 1.
  function probability(p) {
    for (let digits = 2; digits < 4; digits++) {
      const text = p.toFixed(digits);
      if (p === 0 || p === 1 || (Number(text) > 0 && Number(text) < 1)) return text;
    }
    return p.toFixed(4);
  }

  function against(c, p) {
    const threshold = data.thresholds[c];
    return threshold === 0.5 ? probability(p)
      : `${probability(p)} ${p > threshold ? ">" : "≤"} ${probability(threshold)}`;
  }

  // Photos

  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const tab of tabs) tab.hidden = !(data.sheets[tab.dataset.sheet] || []).length;
  state.sheet = (tabs.find((tab) => !tab.hidden) || tabs[0]).dataset.sheet;

  function picture(photo) {
    if (!photo.jpeg) return element("div", "gone", "The image cannot be read any more.");
    const image = element("img");
    image.src = `data:image/jpeg;base64,${photo.jpeg}`;
    image.alt = photo.name;
    image.loading = "lazy";
    return image;
  }

  // A long name loses its middle: the end, which tells files apart, stays.
  function nameOf(photo) {
    const made = element("p", "name");
    const cut = Math.max(0, photo.name.length - 12);
    made.title = photo.name;
    made.append(element("span", "head", photo.name.slice(0, cut)),
      element("span", "tail", photo.name.slice(cut)));
    return made;
  }

  const reasonOf = (reason) => (state.chosen >= 0 ? state.chosen : reason);

  function card([number, reason], place) {
    const photo = data.photos[number];
    const made = element("article", "card");
    const open = element("button", "open");
    open.type = "button";
    open.setAttribute("aria-label", `Enlarge ${photo.name}`);
    open.append(picture(photo));
    open.addEventListener("click", () => show(place));
    const text = element("div", "text");
    const chips = element("div", "chips");
    for (const kind of Object.keys(kinds)) {
      const shown = photo[kind].filter(([c], i) => i < CHIPS || c === reasonOf(reason));
      for (const [c, p] of shown) {
        const chip = element("span", `chip ${kind}${c === reasonOf(reason) ? " reason" : ""}`,
          data.classes[c]);
        chip.append(element("i", "", against(c, p)));
        chips.append(chip);
      }
      const rest = photo[kind].length - shown.length;
      if (rest) chips.append(element("span", `chip ${kind}`, `${rest} more`));
    }
    if (!chips.children.length) chips.append(element("span", "small", "no labels, none predicted"));
    text.append(nameOf(photo), chips);
    made.append(open, text);
    return made;
  }

  // The dialog

  if (data.mapColours) get("photo-classes").before(classMaps.hint(data.mapColours, data.photos));

  function show(place) {
    state.open = place;
    const [number, reason] = state.listed[place];
    const photo = data.photos[number];
    dialog.querySelector(".stage").replaceChildren(
      photo.maps ? classMaps.frame(picture(photo), photo) : picture(photo));
    get("photo-name").textContent = photo.name;
    get("photo-path").textContent = photo.path;
    get("photo-classes").tBodies[0].replaceChildren(...Object.keys(kinds).flatMap((kind) =>
      photo[kind].map(([c, p]) => {
        const row = element("tr", c === reasonOf(reason) ? "reason" : "");
        const name = element("th", "", data.classes[c]);
        name.scope = "row";
        name.append(element("span", `chip ${kind}`, kinds[kind]));
        const value = element("td", "meter",
          `${probability(p)} ${p > data.thresholds[c] ? ">" : "≤"} ${probability(data.thresholds[c])}`);
        value.style.setProperty("--value", p);
        value.style.setProperty("--threshold", Math.min(Math.max(data.thresholds[c], 0), 1));
        value.append(element("i"));
        row.append(name, value);
        if (photo.maps && c in photo.maps.classes) classMaps.listen(row, c, data.mapColours);
        return row;
      })));
    get("before").disabled = place === 0;
    get("after").disabled = place === state.listed.length - 1;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = dialog.querySelector(".side").scrollTop = 0;
  }

  const turn = (by) => {
    const place = state.open + by;
    if (place >= 0 && place < state.listed.length) show(place);
  };

  function listed() {
    const all = data.sheets[state.sheet];
    const c = state.chosen;
    if (["wrong", "random"].includes(state.sheet)) {
      return c < 0 ? all : all.filter(([number]) =>
        Object.keys(kinds).some((kind) => data.photos[number][kind].some(([other]) => other === c)));
    }
    if (c >= 0) return all.filter(([, reason]) => reason === c);
    if (!["false_negatives", "false_positives"].includes(state.sheet)) return all;
    // One card per image, however many classes it was chosen for.
    const sign = state.sheet === "false_negatives" ? 1 : -1;
    const first = new Map();
    for (const [number, reason] of all) {
      const [, p] = data.photos[number][state.sheet].find(([other]) => other === reason);
      if (!first.has(number) || sign * p < sign * first.get(number)[2]) {
        first.set(number, [number, reason, p]);
      }
    }
    return [...first.values()].sort((a, b) => sign * (a[2] - b[2]));
  }

  // There may be more images than photos in the page.
  function counted(cards) {
    const { images, classes } = data.totals[state.sheet];
    const here = data.sheets[state.sheet].length;
    const these = state.chosen >= 0 && !classes;
    const shown = these || classes ? cards.length : new Set(cards.map(([number]) => number)).size;
    const total = these ? here : state.chosen < 0 ? images : classes[state.chosen];
    const of = these ? `${shown} of these ${here}` : shown < total ? `${shown} of ${total}` : shown;
    return `${of} ${total === 1 ? "image" : "images"}`;
  }

  function showPhotos() {
    state.listed = listed();
    sheet.replaceChildren(...state.listed.slice(0, state.shown).map(card));
    more.hidden = state.listed.length <= state.shown;
    const of = state.chosen >= 0 ? ` – only ${data.classes[state.chosen]}` : "";
    get("which").textContent = `${words[state.sheet]}${of}: ${counted(state.listed)}.`;
    for (const tab of tabs) {
      const chosen = tab.dataset.sheet === state.sheet;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
  }

  // Charts

  function drawClass() {
    const c = state.chosen;
    charts.curves(get("curves"), data, c, toggle);
    charts.calibration(get("calibration-chart"), data, c);
    for (const id of ["curve-name", "calibration-name"]) {
      get(id).textContent = c < 0 ? "All classes" : data.classes[c];
    }
    get("curve-text").textContent = c < 0
      ? "A thin line per class, their mean dashed. The dotted line is the precision of guessing. "
        + "Point at a line, or press arrow keys, to see its class."
      : `${data.sentences[c]} The dot marks the threshold, the dotted line the precision of guessing.`;
  }

  function drawAll() {
    drawClass();
    for (const box of document.querySelectorAll("#history .chart")) {
      charts.history(box, data.history, box.dataset.metric);
    }
  }
  get("history").hidden = get("history-legend").hidden = !data.history.length;

  // One class highlighted

  const rows = new Map([...table.tBodies[0].rows].map((row) => [Number(row.dataset.class), row]));

  function choose(c) {
    state.chosen = c;
    state.shown = PAGE;
    filter.value = c < 0 ? "" : String(c);
    for (const [other, row] of rows) {
      row.classList.toggle("chosen", other === c);
      row.querySelector("button").setAttribute("aria-pressed", String(other === c));
    }
    if (c >= 0) reveal(rows.get(c));
    drawClass();
    showPhotos();
  }

  // Scrolls the box around an element, never the page, until the element can be seen.
  function reveal(part) {
    const box = part.closest(".scroll");
    const [inner, outer] = [part.getBoundingClientRect(), box.getBoundingClientRect()];
    const top = outer.top + box.querySelector("thead").offsetHeight;
    if (inner.top >= top && inner.bottom <= outer.bottom) return;
    box.scrollTop += (inner.top + inner.bottom - top - outer.bottom) / 2;
  }

  function toggle(c) { choose(c === state.chosen ? -1 : c); }

  // Sorting

  function sort(column, head) {
    const text = column === 0;
    const before = head.getAttribute("aria-sort");
    const down = before === "none" ? !text : before === "ascending";
    const value = (row) => {
      const cell = row.cells[column];
      return text ? cell.textContent : cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    const sorted = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      // Cells without a value come last in either order.
      if (x === null || y === null) return (x === null) - (y === null);
      const order = text ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    table.tBodies[0].append(...sorted);
    for (const cell of table.tHead.rows[0].cells) cell.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  // Event handlers

  [...table.tHead.rows[0].cells].forEach((head, column) =>
    head.addEventListener("click", () => sort(column, head)));
  for (const [c, row] of rows) row.addEventListener("click", () => toggle(c));
  filter.addEventListener("change", () => choose(filter.value === "" ? -1 : Number(filter.value)));
  const arrow = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
  get("curves").addEventListener("keydown", ({ key }) => {
    const known = Object.keys(data.curves).map(Number);
    if (key === "Escape") choose(-1);
    if (!(key in arrow) || !known.length) return;
    const at = known.indexOf(state.chosen);
    choose(known[at < 0 ? 0 : (at + arrow[key] + known.length) % known.length]);
  });
  function open(tab) {
    Object.assign(state, { sheet: tab.dataset.sheet, shown: PAGE });
    showPhotos();
  }
  for (const tab of tabs) {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", ({ key }) => {
      const shown = tabs.filter((other) => !other.hidden);
      if (!["ArrowLeft", "ArrowRight"].includes(key)) return;
      const next = shown[(shown.indexOf(tab) + arrow[key] + shown.length) % shown.length];
      open(next);
      next.focus();
    });
  }
  more.addEventListener("click", () => {
    state.shown += 2 * PAGE;
    showPhotos();
  });
  get("before").addEventListener("click", () => turn(-1));
  get("after").addEventListener("click", () => turn(1));
  get("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", ({ key }) => {
    if (["ArrowLeft", "ArrowRight"].includes(key)) turn(arrow[key]);
  });
  dialog.addEventListener("click", ({ target }) => { if (target === dialog) dialog.close(); });

  const aspects = data.photos.map((photo) => photo.width / photo.height).sort((a, b) => a - b);
  if (aspects.length) {
    const middle = Math.min(Math.max(aspects[aspects.length >> 1], 0.6), 1.5);
    document.documentElement.style.setProperty("--aspect", middle.toFixed(3));
  }
  drawAll();
  showPhotos();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) drawAll();  // not where a phone only hides its address bar
    width = innerWidth;
  });
})();
