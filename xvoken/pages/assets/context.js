// The page of a context file: pictures with their crops drawn in, and the phrases found for each.
const PANELS = { whole: "Whole", five: "Five crops", nine: "Nine crops" };
const CROPS = about.boxes.length;

// Of a picture: {id, thumb or why, crops: of each of its views the phrases [{text, score}], best first}; undefined while it is loaded.
function pictureOf(index) {
  const [line, size] = [lineOf(index), about.sizes.views];
  const chunk = peekDecoded("views", Math.floor(index / size), (value) =>
    ({ which: integers(value.which), scores: floats(value.scores), thumbs: value.thumbs }));
  if (line === undefined || !chunk) return undefined;
  const texts = line.split("\t");
  const crops = Array.from({ length: CROPS }, (_, crop) => Array.from({ length: about.k }, (_, place) => {
    const at = ((index % size) * CROPS + crop) * about.k + place;
    return { text: texts[chunk.which[at]], score: chunk.scores[at] };
  }));
  return { id: texts[0], ...chunk.thumbs[index % size], crops };
}

// The picture with the crops of a view drawn in, each with its number; a picture may be hovered, a phrase too.
function drawn(picture, view) {
  const [first, end] = about.views[view];
  const frame = element("div", { className: "frame" }, image(picture.id, picture));
  for (let crop = first; crop < end && view !== "whole"; crop++) {
    const [left, top, right, bottom] = about.boxes[crop].map((share) => 100 * share);
    const box = element("span", { className: "crop", ariaHidden: "true" }, element("b", { textContent: crop - first + 1 }));
    Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    box.dataset.crop = crop;
    frame.append(box);
  }
  return frame;
}

function phrase({ text, score }, properties = {}) {
  const said = element("span", { dir: "auto", className: "phrase" });
  marked(said, text, state().q);
  const made = element("li", properties, said, " ", element("small", { textContent: score.toFixed(3) }));
  return made;
}

// One view of a picture: the best phrases of the whole, or the best phrase of each crop.
function panel(picture, view, index) {
  const [first, end] = about.views[view];
  const phrases = view === "whole" ? picture.crops[0] : picture.crops.slice(first, end).map((crop) => crop[0]);
  const listed = element("ol", {}, ...phrases.map((one, i) => {
    const made = phrase(one);
    if (view !== "whole") made.dataset.crop = first + i;
    return made;
  }));
  const open = element("button", { type: "button", className: "open", ariaLabel: `${picture.id}, ${PANELS[view]}` }, drawn(picture, view));
  open.addEventListener("click", () => go({ show: index + 1, of: view }));
  return element("div", { className: "panel" }, open, element("p", { className: "number", textContent: PANELS[view] }), listed);
}

// A crop and its phrases are lit together.
function light(event) {
  const panels = event.target.closest?.(".panel");
  if (!panels) return;
  const crop = event.target.closest("[data-crop]")?.dataset.crop;
  for (const part of panels.querySelectorAll("[data-crop]")) {
    part.classList.toggle("lit", part.dataset.crop === crop);
    part.classList.toggle("dim", crop !== undefined && part.dataset.crop !== crop);
  }
}
for (const kind of ["mouseover", "focusin", "mouseout", "focusout"]) document.addEventListener(kind, light);

function make() {
  return element("article", {}, element("h3", { dir: "auto" }), element("div", { className: "panels" }));
}

function fill(row, index) {
  const picture = pictureOf(index);
  const shown = `${index} ${Boolean(picture)} ${chosen}`;
  if (row.shown !== shown) {
    row.shown = shown;
    row.ariaLabel = picture ? `picture ${picture.id}` : `picture ${number(index + 1)}`;
    row.firstChild.textContent = picture ? picture.id : "…";
    row.lastChild.replaceChildren(...(picture ? Object.keys(PANELS).map((view) => panel(picture, view, index)) : []));
  }
  for (const button of row.querySelectorAll("button")) button.tabIndex = row.tabIndex;
}

function drawDialog(dialog, now) {
  const index = Number(now.show) - 1;
  if (!(index >= 0 && index < about.lines)) return false;
  const view = now.of in PANELS ? now.of : "whole";
  const picture = pictureOf(index);
  if (!picture) {
    Promise.all([load("text", Math.floor(index / about.sizes.text)), load("views", Math.floor(index / about.sizes.views))]).then(() => update());
    return false;
  }
  const close = element("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => dialog.close());
  const views = Object.entries(PANELS).map(([name, text]) => {
    const made = element("button", { type: "button", textContent: text, ariaPressed: String(name === view) });
    made.addEventListener("click", () => go({ of: name }, true));
    return made;
  });
  const [first, end] = about.views[view];
  const crops = picture.crops.slice(first, end).map((phrases, i) => {
    const heading = view === "whole" ? [] : [element("h3", { textContent: `Crop ${i + 1}` })];
    const made = element("div", {}, ...heading, element("ol", {}, ...phrases.map((one) => phrase(one))));
    if (view !== "whole") made.dataset.crop = first + i;
    return made;
  });
  dialog.replaceChildren(element("div", { className: "enlarged panel" }, element("div", {}, drawn(picture, view)),
    element("div", {}, element("h2", { id: "enlarged-title", textContent: picture.id }),
      element("div", { className: "buttons" }, ...views, close), ...crops)));
  return true;
}

start({
  noun: "picture",
  summary: `${plural(about.lines, "picture")}, for each the best ${about.k === 1 ? "phrase" : `${about.k} phrases`} of the whole, of five and of nine crops${about.named.model && `, found by ${about.named.model}`}`,
  views: { "": "Pictures", about: "About" },
  orders: { "": "As in the file", high: "Highest score first", low: "Lowest score first" },
  told: [
    ["File", about.named.text], ["Pictures", about.named.sets], ["Found by", about.named.model], ["Scores", about.named.scores],
    ["Can't be shown", about.broken && plural(about.broken, "picture")],
  ],
  make, fill, drawDialog,
  drawView: () => {},
  turn: (by) => {
    const place = (lines ? lines.indexOf(Number(state().show) - 1) : Number(state().show) - 1) + by;
    if (place >= 0 && place < list.total) go({ show: at(place) + 1 }, true);
  },
  enter: (index) => go({ show: index + 1, of: "whole" }),
  filtered: async () => null,
  filter: () => "",
});
