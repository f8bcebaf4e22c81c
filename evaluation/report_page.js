"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 24;
  const filter = document.getElementById("filter");
  const sheet = document.getElementById("sheet");
  const more = document.getElementById("more");
  const table = document.getElementById("classes");
  const curves = document.getElementById("curves");
  const words = {
    wrong: "Images with the largest difference between probability and label in a wrong decision",
    false_negatives: "Labels that are present, but not predicted, the lowest probability first",
    false_positives: "Classes that are predicted, but absent, the highest probability first",
    random: "Images drawn at random",
  };
  const state = { sheet: "wrong", chosen: -1, shown: PAGE };

  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const percent = (p) => (p > 0.995 && p < 1 ? "99+" : String(Math.round(100 * p)));

  // Photos

  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const tab of tabs) tab.hidden = !data.sheets[tab.dataset.sheet].length;
  state.sheet = (tabs.find((tab) => !tab.hidden) || tabs[0]).dataset.sheet;

  const kinds = ["true_positives", "false_positives", "false_negatives", "unknown"];

  function card([number, reason]) {
    const photo = data.photos[number];
    const made = element("article", "card");
    if (photo.thumbnail) {
      const image = element("img");
      image.src = "data:image/jpeg;base64," + photo.thumbnail;
      image.alt = photo.name;
      image.loading = "lazy";
      made.append(image);
    } else {
      made.append(element("div", "gone"));
    }
    const text = element("div", "text");
    const name = element("p", "name", photo.name);
    name.title = photo.name;
    const chips = element("div", "chips");
    const point = state.chosen >= 0 ? state.chosen : reason;
    for (const kind of kinds) {
      for (const [c, p] of photo[kind]) {
        const chip = element("span", "chip " + kind + (c === point ? " reason" : ""),
          data.classes[c]);
        chip.append(element("i", "", percent(p)));
        chips.append(chip);
      }
    }
    if (!chips.children.length) chips.append(element("span", "small", "no labels, none predicted"));
    text.append(name, chips);
    made.append(text);
    return made;
  }

  function listed() {
    const all = data.sheets[state.sheet];
    const c = state.chosen;
    if (state.sheet === "false_negatives" || state.sheet === "false_positives") {
      if (c >= 0) return all.filter(([, reason]) => reason === c);
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
    return c < 0 ? all : all.filter(([number]) =>
      kinds.some((kind) => data.photos[number][kind].some(([other]) => other === c)));
  }

  // There may be more images than photos in the page.
  function counted(number) {
    const { images, classes } = data.totals[state.sheet];
    const here = data.sheets[state.sheet].length;
    const these = state.chosen >= 0 && !classes;
    const total = these ? here : state.chosen < 0 ? images : classes[state.chosen];
    const of = these ? `${number} of these ${here}` : number < total ? `${number} of ${total}` : number;
    return `${of} ${total === 1 ? "image" : "images"}`;
  }

  function showPhotos() {
    const cards = listed();
    sheet.replaceChildren(...cards.slice(0, state.shown).map(card));
    more.hidden = cards.length <= state.shown;
    const of = state.chosen >= 0 ? ` – only ${data.classes[state.chosen]}` : "";
    document.getElementById("which").textContent =
      `${words[state.sheet]}${of}: ${counted(cards.length)}.`;
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab.dataset.sheet === state.sheet));
    }
  }

  // One class highlighted

  const rows = new Map([...table.tBodies[0].rows].map((row) => [Number(row.dataset.class), row]));

  function choose(c) {
    state.chosen = c;
    state.shown = PAGE;
    filter.value = c < 0 ? "" : String(c);
    for (const other of document.querySelectorAll(".chosen")) other.classList.remove("chosen");
    curves.classList.toggle("one", c >= 0);
    document.body.classList.toggle("one-bar", c >= 0);
    document.getElementById("curve-name").textContent = c < 0 ? "All classes" : data.classes[c];
    document.getElementById("curve-text").textContent = c < 0
      ? "One thin line per class, and their mean, dashed." : data.sentences[c];
    if (c >= 0) {
      rows.get(c).classList.add("chosen");
      for (const part of ["curve-", "point-", "bar-"]) {
        const drawn = document.getElementById(part + c);
        if (drawn) drawn.classList.add("chosen");
      }
      reveal(rows.get(c));
      reveal(document.getElementById("bar-" + c));
    }
    showPhotos();
  }

  // Scrolls the box around an element, never the page, until the element can be seen.
  function reveal(part) {
    const box = part && part.closest(".tall");
    if (!box) return;
    const [inner, outer] = [part.getBoundingClientRect(), box.getBoundingClientRect()];
    const head = box.querySelector("thead");
    const top = outer.top + (head ? head.offsetHeight : 0);
    if (inner.top >= top && inner.bottom <= outer.bottom) return;
    box.scrollTop += (inner.top + inner.bottom - top - outer.bottom) / 2;
  }

  const toggle = (c) => choose(c === state.chosen ? -1 : c);

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
  for (const drawn of document.querySelectorAll("[id^=curve-], [id^=bar-]")) {
    const c = Number(drawn.id.split("-")[1]);
    if (drawn.matches("g") && rows.has(c)) {
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = data.classes[c];
      drawn.prepend(title);
      drawn.addEventListener("click", () => toggle(c));
    }
  }
  for (const tab of tabs) {
    tab.addEventListener("click", () => {
      Object.assign(state, { sheet: tab.dataset.sheet, shown: PAGE });
      showPhotos();
    });
  }
  more.addEventListener("click", () => {
    state.shown += 2 * PAGE;
    showPhotos();
  });

  const aspects = data.photos.map((photo) => photo.width / photo.height).sort((a, b) => a - b);
  if (aspects.length) {
    const middle = Math.min(Math.max(aspects[aspects.length >> 1], 0.6), 1.5);
    document.documentElement.style.setProperty("--aspect", middle.toFixed(3));
  }
  showPhotos();
})();
