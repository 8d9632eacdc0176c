// Draws the photo, the head boxes and the answers. The browser owns the boxes: it sends all of them with each question
// and draws the answer to the latest one. gradio gives `element`, `props`, `trigger` and `watch`.

const SIDES = ['Left', 'Top', 'Right', 'Bottom'];
const SMALLEST = 0.01; // the smallest side of a box, as a share of the photo
const STEP = 0.01; // what an arrow key moves a box by
const PATIENCE = 10000; // milliseconds to wait for an answer
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const CORNERS = { nw: [0, 1], ne: [2, 1], se: [2, 3], sw: [0, 3] }; // the sides that a corner moves

const find = (name) => element.querySelector(name);
const photo = find('.gaze-photo'), picture = find('.gaze-picture'), svg = find('svg'), list = find('.gaze-people');
const root = find('.gaze'), message = find('.gaze-message'), error = find('.gaze-error');

let current = null; // the photo: key, name, width and height
// Each person by number: box, moved (since the latest answer), look (that answer), heat (whether shown), and elements.
const people = new Map();
let selected = null, drag = null; // the number of a person, and what the pointer does
let turn = 0, open = null, changed = false; // the latest question, its timer while open, whether boxes changed since
let report = null, saving = false; // the JSON of the boxes as they are, and whether it is to be downloaded

// --- Making elements

function make(parent, tag, attributes = {}, text = '') {
  const space = parent.namespaceURI;
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return parent.appendChild(made);
}

function place(shape, attributes) {
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
}

const canvas = make(svg, 'rect', { class: 'gaze-canvas', width: '100%', height: '100%' });
const heats = make(svg, 'g'), arrows = make(svg, 'g'), boxes = make(svg, 'g');

// --- Questions and answers

function ask() {
  // Moves come faster than answers. One question is open at a time, and the next one has all that was changed since.
  report = null;
  if (open) { changed = true; return; }
  turn += 1;
  changed = false;
  const sent = [...people].map(([number, person]) => ({ number, box: person.box }));
  trigger('input', { turn, people: sent });
  open = setTimeout(settle, PATIENCE); // a server that failed gives no answer
}

function settle() {
  clearTimeout(open);
  open = null;
  if (changed && current) ask();
}

function receive(answer) {
  if (!answer) return;
  if (answer.photo || !answer.key) show(answer);
  else if (!current || answer.key !== current.key || answer.turn !== turn) return;
  error.hidden = !answer.error;
  error.textContent = answer.error || '';
  if (answer.message !== undefined || answer.error) message.textContent = answer.message || '';
  if (answer.people) take(answer);
  if (!answer.photo) settle();
}

function take(answer) {
  report = changed ? null : answer.report;
  for (const look of answer.people) {
    const person = people.get(look.number) || (answer.photo && add(look.box, look.number));
    if (!person) continue;
    if (person.moved && !answer.photo) message.textContent = `Person ${look.number}: ${look.words}`;
    Object.assign(person, { look, moved: !answer.photo && String(person.box) !== String(look.box) });
  }
  if (answer.photo) select(people.keys().next().value ?? null);
  draw();
  save();
}

function show(answer) {
  changed = false;
  settle();
  for (const number of [...people.keys()]) forget(number);
  current = answer.photo ? { ...answer.photo, key: answer.key } : null;
  report = null;
  saving = false;
  selected = null;
  root.classList.toggle('empty', !current);
  if (!current) { picture.removeAttribute('src'); return; }
  picture.alt = `The photo ${current.name}`;
  picture.width = current.width;
  picture.height = current.height;
  photo.style.setProperty('--ratio', current.width / current.height);
  picture.src = current.picture;
}

// --- People

function add(box, number = Math.max(0, ...people.keys()) + 1) {
  const person = { box: [...box], heat: true, look: null, moved: true };
  people.set(number, person);
  person.shape = shapeOf(number);
  person.heatmap = make(heats, 'image', { class: 'gaze-heat', x: 0, y: 0, width: '100%', height: '100%',
    preserveAspectRatio: 'none' });
  person.arrow = make(arrows, 'g', { class: 'gaze-arrow' });
  person.card = cardOf(number, person);
  return person;
}

function shapeOf(number) {
  const shape = make(boxes, 'g', { class: 'gaze-box', tabindex: 0, role: 'application',
    'aria-roledescription': 'movable head box', 'data-number': number });
  for (const name of ['halo', 'side']) make(shape, 'rect', { class: name });
  make(shape, 'rect', { class: 'tag', rx: 4, width: 22, height: 20 });
  make(shape, 'text', {}, String(number));
  for (const corner of Object.keys(CORNERS)) {
    make(shape, 'circle', { class: `handle ${corner}`, r: 5 });
    make(shape, 'circle', { class: `grip ${corner}`, r: 16, 'data-corner': corner });
  }
  shape.addEventListener('focus', () => select(number));
  shape.addEventListener('keydown', (event) => key(event, number));
  return shape;
}

function cardOf(number, person) {
  const card = make(list, 'li');
  const top = make(card, 'div', { class: 'top' });
  make(top, 'h3', {}, `Person ${number}`);
  const name = `Remove person ${number}`;
  const remove = make(top, 'button', { type: 'button', class: 'remove', 'aria-label': name }, 'Remove');
  remove.addEventListener('click', () => drop(number, find('.gaze-add')));
  make(card, 'p', { class: 'words' }, 'Looking …');
  make(card, 'p', { class: 'where' });
  const heat = make(card, 'label', { class: 'heat' });
  const check = make(heat, 'input', { type: 'checkbox', 'aria-label': `Show the heatmap of person ${number}` });
  check.checked = true;
  check.addEventListener('change', () => { person.heat = check.checked; draw(); });
  make(heat, 'span', {}, 'Show the heatmap');
  const fields = make(card, 'fieldset');
  make(fields, 'legend', {}, 'Head box in pixels');
  SIDES.forEach((side, i) => {
    const label = make(fields, 'label', {}, side);
    const input = make(label, 'input', { type: 'number', step: 1, min: 0, inputmode: 'numeric',
      max: i % 2 ? current.height : current.width, 'aria-label': `${side} side of head ${number} in pixels` });
    input.addEventListener('change', () => type(number, i, input));
  });
  card.addEventListener('focusin', () => select(number));
  card.addEventListener('click', () => select(number));
  return card;
}

function forget(number) {
  const person = people.get(number);
  for (const part of [person.shape, person.heatmap, person.arrow, person.card]) part.remove();
  people.delete(number);
  if (selected === number) selected = null;
}

function drop(number, focus) {
  forget(number);
  message.textContent = `Person ${number} was removed.`;
  focus.focus();
  draw();
  ask();
}

function select(number) {
  selected = number;
  for (const [other, person] of people) {
    person.shape.classList.toggle('selected', other === number);
    person.card.classList.toggle('selected', other === number);
  }
}

// --- Changes of boxes

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

function change(number, box) {
  const person = people.get(number);
  person.box = box;
  person.moved = true;
  draw();
  ask();
}

function moved([x0, y0, x1, y1], dx, dy) {
  const right = clip(dx, -x0, 1 - x1), down = clip(dy, -y0, 1 - y1);
  return [x0 + right, y0 + down, x1 + right, y1 + down].map((side) => clip(side, 0, 1));
}

function resized(box, sides, dx, dy) {
  const result = [...box];
  for (const side of sides) {
    const opposite = box[(side + 2) % 4], to = box[side] + (side % 2 ? dy : dx);
    if (side < 2) result[side] = clip(to, 0, Math.max(0, opposite - SMALLEST));
    else result[side] = clip(to, Math.min(1, opposite + SMALLEST), 1);
  }
  return result;
}

function key(event, number) {
  const box = people.get(number).box, step = KEYS[event.key];
  if (event.key === 'Delete' || event.key === 'Backspace') {
    const next = people.get(number).shape.nextElementSibling || people.get(number).shape.previousElementSibling;
    drop(number, next || find('.gaze-add'));
  } else if (step) {
    const [dx, dy] = step.map((value) => value * STEP);
    change(number, event.shiftKey ? resized(box, [2, 3], dx, dy) : moved(box, dx, dy));
  } else return;
  event.preventDefault();
}

function type(number, side, input) {
  const { box } = people.get(number);
  const to = input.valueAsNumber / (side % 2 ? current.height : current.width);
  const sides = resized(box, [side], to - box[side], to - box[side]);
  if (Number.isFinite(to)) change(number, sides);
  else draw();
}

// --- Pointers

function at(event) {
  const frame = svg.getBoundingClientRect();
  return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
}

svg.addEventListener('pointerdown', (event) => {
  if (event.button || !event.isPrimary) return;
  const shape = event.target.closest('.gaze-box'), [x, y] = at(event);
  if (shape) {
    const number = Number(shape.dataset.number);
    drag = { number, x, y, box: people.get(number).box, corner: event.target.dataset.corner };
    shape.focus({ preventScroll: true });
  } else if (event.pointerType === 'mouse') drag = { x: clip(x, 0, 1), y: clip(y, 0, 1) };
  else return; // a finger scrolls the page
  svg.setPointerCapture(event.pointerId);
  event.preventDefault();
});

// A finger on a box must not scroll the page. Chromium ignores the style touch-action for a part of an SVG.
svg.addEventListener('touchstart', (event) => {
  if (event.target.closest('.gaze-box')) event.preventDefault();
}, { passive: false });

svg.addEventListener('pointermove', (event) => {
  if (!drag) return;
  const [x, y] = at(event), dx = x - drag.x, dy = y - drag.y;
  if (drag.number === undefined) {
    const far = Math.abs(dx) * svg.clientWidth > 6 && Math.abs(dy) * svg.clientHeight > 6;
    if (far) draft(x, y);
  } else change(drag.number, drag.corner ? resized(drag.box, CORNERS[drag.corner], dx, dy) : moved(drag.box, dx, dy));
});

function draft(x, y) {
  // A new box grows from where the pointer went down, to whichever side.
  const box = [Math.min(drag.x, x), Math.min(drag.y, y), Math.max(drag.x, x), Math.max(drag.y, y)]
    .map((side) => clip(side, 0, 1));
  if (box[2] - box[0] < SMALLEST || box[3] - box[1] < SMALLEST) return;
  if (drag.drawn === undefined) {
    add(box);
    drag.drawn = [...people.keys()].pop();
    select(drag.drawn);
  }
  change(drag.drawn, box);
}

for (const name of ['pointerup', 'pointercancel']) svg.addEventListener(name, () => {
  if (drag && drag.drawn !== undefined) people.get(drag.drawn).shape.focus({ preventScroll: true });
  drag = null;
});

// --- Buttons

find('.gaze-add').addEventListener('click', () => {
  const half = 0.1 * Math.min(current.width, current.height), x = half / current.width, y = half / current.height;
  add([0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y]);
  const number = [...people.keys()].pop();
  draw();
  people.get(number).shape.focus({ preventScroll: true });
  photo.scrollIntoView({ block: 'nearest' });
  message.textContent = `Person ${number} was added in the middle. Move the box onto a head.`;
  ask();
});

find('.gaze-download').addEventListener('click', () => { saving = true; save(); });

function save() {
  // The JSON is that of the boxes as they are, so that an open question is waited for.
  if (!saving || !report) return;
  saving = false;
  const text = JSON.stringify(report, null, 2) + '\n';
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  link.download = current.name.replace(/\.[^.]*$/, '') + '.gaze.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- Drawing

function draw() {
  if (!current) return;
  const width = svg.clientWidth, height = svg.clientHeight;
  for (const [number, person] of people) {
    const colour = COLOURS[(number - 1) % COLOURS.length];
    drawBox(number, person, colour, width, height);
    drawLook(person, colour, width, height);
    drawCard(person, colour);
  }
}

function drawBox(number, { shape, box }, colour, width, height) {
  const [x0, y0, x1, y1] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
  const sides = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  for (const rect of shape.querySelectorAll('.halo, .side')) place(rect, sides);
  shape.querySelector('.side').setAttribute('stroke', colour);
  const top = y0 >= 22 ? y0 - 22 : Math.min(y1 + 2, height - 20), left = clip(x0 - 1, 0, width - 22);
  place(shape.querySelector('.tag'), { x: left, y: top, fill: colour });
  place(shape.querySelector('text'), { x: left + 11, y: top + 10.5 });
  for (const circle of shape.querySelectorAll('circle')) {
    const corner = Object.keys(CORNERS).find((name) => circle.classList.contains(name));
    const [across, down] = CORNERS[corner];
    place(circle, { cx: across ? x1 : x0, cy: down === 3 ? y1 : y0 });
    if (!circle.dataset.corner) circle.setAttribute('fill', colour);
    // The grips of a small box leave its middle free, so that it can still be moved.
    if (circle.dataset.corner) place(circle, { r: clip(Math.min(x1 - x0, y1 - y0) / 3, 7, 16) });
  }
  const pixels = inPixels(box);
  shape.setAttribute('aria-label', `Head ${number}: ${SIDES.map((side, i) => `${side} ${pixels[i]}`).join(', ')}. ` +
    'Arrow keys move it, Shift and arrow keys resize it, Delete removes it.');
}

function drawLook({ look, heatmap, heat, arrow, box, moved: old }, colour, width, height) {
  arrow.replaceChildren();
  heatmap.style.display = look && heat ? '' : 'none';
  if (!look) return;
  if (heatmap.getAttribute('href') !== look.heatmap) heatmap.setAttribute('href', look.heatmap);
  arrow.classList.toggle('unsure', look.inside !== null && look.inside < 0.5);
  arrow.classList.toggle('stale', old);
  const start = [(box[0] + box[2]) / 2 * width, (box[1] + box[3]) / 2 * height];
  const end = [look.point[0] * width, look.point[1] * height];
  const angle = Math.atan2(end[1] - start[1], end[0] - start[0]);
  const shaft = { x1: start[0], y1: start[1], x2: end[0] - 15 * Math.cos(angle), y2: end[1] - 15 * Math.sin(angle) };
  const tip = [[0, 0], [-17, 8], [-17, -8]].map(([x, y]) => [end[0] + x * Math.cos(angle) - y * Math.sin(angle),
    end[1] + x * Math.sin(angle) + y * Math.cos(angle)].join()).join(' ');
  const long = Math.hypot(end[0] - start[0], end[1] - start[1]) > 20;
  if (long) {
    make(arrow, 'line', { ...shaft, class: 'halo', 'stroke-width': 6 });
    make(arrow, 'line', { ...shaft, stroke: colour, 'stroke-width': 3 });
    make(arrow, 'polygon', { points: tip, fill: colour, stroke: '#fff', 'stroke-width': 1.5 });
  } else make(arrow, 'circle', { cx: end[0], cy: end[1], r: 6, fill: colour, stroke: '#fff', 'stroke-width': 1.5 });
}

function drawCard({ card, look, box }, colour) {
  card.style.setProperty('--person', colour);
  const inputs = card.querySelectorAll('input[type=number]');
  inPixels(box).forEach((value, i) => { inputs[i].value = value; });
  if (!look) return;
  card.querySelector('.words').textContent = look.words;
  const [x, y] = look.point;
  card.querySelector('.where').textContent = `The point is ${Math.round(x * current.width)} pixels from the left and ` +
    `${Math.round(y * current.height)} from the top. The heatmap is ${look.score.toFixed(2)} there.`;
}

function inPixels(box) {
  return box.map((side, i) => Math.round(side * (i % 2 ? current.height : current.width)));
}

// --- Dropping another photo onto this one

photo.addEventListener('dragover', (event) => event.preventDefault());
photo.addEventListener('drop', async (event) => {
  event.preventDefault();
  const block = document.getElementById('gaze-file');
  if (!event.dataTransfer.files.length) return;
  const files = event.dataTransfer.files;
  block.querySelector('button[aria-label="Clear"]')?.click(); // gradio offers no input before
  for (let i = 0; i < 40; i += 1) {
    const input = block.querySelector('input[type=file]');
    if (input) {
      input.files = files;
      input.dispatchEvent(new Event('change', { bubbles: true }));
      return;
    }
    await new Promise((resume) => { setTimeout(resume, 50); });
  }
});

find('.gaze-help').open = window.innerWidth > 800;
new ResizeObserver(draw).observe(photo);
watch('value', () => receive(props.value));
receive(props.value);
