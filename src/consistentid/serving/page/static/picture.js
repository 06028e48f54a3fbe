// A picture to change, what of it is painted to be drawn anew, and a box for each person, drawn or typed.
const COLOURS = ['#ff8a00', '#00a2ff', '#d6409f', '#3dbb55', '#a77bff', '#e5484d'];
let file = null;
let image = null;
let painted = false;
let tool = 'box 0';
let begun = null;
const boxes = new Map();

// Width and height of what is made without a picture, in pixels of the canvas: each further person makes it wider.
function shape() {
  const [width, height] = props.width && props.height ? [props.width, props.height] : [512, 512];
  const scale = width < 300 ? 4 : 1;
  return [Math.round(scale * width * (1 + props.wider * Math.max(page.people.length - 1, 0))), scale * height];
}

const mask = make('canvas');
const shown = make('canvas', { class: 'cid-canvas', tabindex: '0', role: 'img', 'aria-label': 'Picture with boxes and painted area' });
const say = make('p', { class: 'cid-error', role: 'alert' });
const tools = make('div', { class: 'cid-tools', role: 'radiogroup', 'aria-label': 'Tool' });
const typed = make('div', { class: 'cid-typed' });
const size = make('input', { type: 'range', min: '2', max: '40', value: '12', 'aria-label': 'Size of the brush' });
const zone = dropZone('Drop a picture to change here, or choose one', 'image/*', false, (files) => load(files[0]));
root.append(zone, say, tools, shown, typed);

function publish() {
  const there = page.people.map((person) => boxes.get(person.id) || null);
  const value = { image: null, mask: null, boxes: there };
  if (file) {
    value.image = file;
    if (painted) value.mask = mask.toDataURL('image/png').split(',')[1];
  }
  page.before = file ? image.src : null;
  props.value = value;
}

async function load(chosen) {
  say.textContent = tooLarge(chosen.size);
  if (say.textContent) return;
  const next = new Image();
  next.src = URL.createObjectURL(chosen);
  try {
    await next.decode();
  } catch {
    say.textContent = `${chosen.name} is not a picture that this browser can show; choose a PNG, JPEG or WebP file.`;
    return;
  }
  image = next;
  file = await base64Of(chosen);
  [mask.width, mask.height] = [image.naturalWidth, image.naturalHeight];
  clear();
  tool = 'brush';
  arrange();
}

function clear() {
  const pen = mask.getContext('2d');
  pen.fillStyle = 'black';
  pen.fillRect(0, 0, mask.width, mask.height);
  painted = false;
}

function arrange() {
  const choices = [];
  if (image) choices.push(['brush', 'Brush'], ['eraser', 'Eraser'], ['area', 'Rectangle']);
  page.people.forEach((person, number) => choices.push([`box ${number}`, `Box of ${person.name}`]));
  if (!choices.some(([name]) => name === tool)) tool = choices.length ? choices[0][0] : '';
  tools.replaceChildren(...choices.map(([name, text]) => {
    const choice = button(text, () => { tool = name; arrange(); }, {
      role: 'radio', 'aria-checked': String(name === tool), class: `cid-button${name === tool ? ' chosen' : ''}`,
    });
    if (name.startsWith('box')) choice.style.borderColor = COLOURS[Number(name.slice(4)) % COLOURS.length];
    return choice;
  }));
  if (image) {
    tools.append(
      size,
      button('Clear paint', () => { clear(); draw(); publish(); }),
      button('Remove picture', () => { image = file = null; painted = false; arrange(); }),
    );
  }
  if (boxes.size) tools.append(button('Clear boxes', () => { boxes.clear(); arrange(); }));
  typed.replaceChildren(...page.people.map((person, number) => typedBox(person, number)));
  const there = image || page.people.length > 0;
  shown.hidden = !there;
  [shown.width, shown.height] = image ? [image.naturalWidth, image.naturalHeight] : shape();
  draw();
  publish();
}

function typedBox(person, number) {
  const box = boxes.get(person.id) || [];
  const field = make('fieldset', { class: 'cid-boxes' }, make('legend', {}, `Box of ${person.name}, in percent of the picture`));
  ['left', 'top', 'right', 'bottom'].forEach((side, index) => {
    field.append(labelled(side, make('input', {
      type: 'number', min: '0', max: '100', value: box.length ? String(Math.round(box[index] * 100)) : '',
      'aria-label': `${side} of person ${number + 1}`,
      onchange: () => {
        const values = [...field.querySelectorAll('input')].map((input) => input.value);
        if (values.every((value) => value === '')) boxes.delete(person.id);
        else if (values.every((value) => value !== '')) boxes.set(person.id, values.map((value) => Number(value) / 100));
        else return;
        draw();
        publish();
      },
    })));
  });
  return field;
}

function draw() {
  const pen = shown.getContext('2d');
  pen.clearRect(0, 0, shown.width, shown.height);
  if (image) {
    pen.drawImage(image, 0, 0);
    if (painted) {
      const veil = make('canvas', { width: mask.width, height: mask.height });
      const brush = veil.getContext('2d');
      brush.drawImage(mask, 0, 0);
      const pixels = brush.getImageData(0, 0, veil.width, veil.height);
      for (let i = 0; i < pixels.data.length; i += 4) {
        const there = pixels.data[i];
        pixels.data.set([255, 0, 120, there * 0.55], i);
      }
      brush.putImageData(pixels, 0, 0);
      pen.drawImage(veil, 0, 0);
    }
  } else {
    pen.fillStyle = 'rgba(128, 128, 128, 0.15)';
    pen.fillRect(0, 0, shown.width, shown.height);
  }
  const unit = shown.width / 100;
  page.people.forEach((person, number) => {
    const box = boxes.get(person.id);
    if (!box) return;
    const [x, y] = [box[0] * shown.width, box[1] * shown.height];
    pen.strokeStyle = pen.fillStyle = COLOURS[number % COLOURS.length];
    pen.lineWidth = Math.max(2, unit * 0.8);
    pen.strokeRect(x, y, (box[2] - box[0]) * shown.width, (box[3] - box[1]) * shown.height);
    pen.font = `${Math.max(12, 4 * unit)}px sans-serif`;
    pen.fillText(person.name, x + unit, y + 5 * unit);
  });
}

function placeOf(event) {
  const area = shown.getBoundingClientRect();
  const clamp = (value) => Math.min(1, Math.max(0, value));
  return [clamp((event.clientX - area.left) / area.width), clamp((event.clientY - area.top) / area.height)];
}

function stroke(from, to) {
  const pen = mask.getContext('2d');
  pen.strokeStyle = tool === 'eraser' ? 'black' : 'white';
  pen.lineCap = 'round';
  pen.lineWidth = (Number(size.value) / 100) * Math.min(mask.width, mask.height);
  pen.beginPath();
  pen.moveTo(from[0] * mask.width, from[1] * mask.height);
  pen.lineTo(to[0] * mask.width + 0.01, to[1] * mask.height);
  pen.stroke();
  painted = true;
}

function ordered(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}

shown.addEventListener('pointerdown', (event) => {
  if (!tool) return;
  shown.setPointerCapture(event.pointerId);
  event.preventDefault();
  begun = { from: placeOf(event), last: placeOf(event) };
  if (tool === 'brush' || tool === 'eraser') {
    stroke(begun.from, begun.from);
    draw();
  }
});
shown.addEventListener('pointermove', (event) => {
  if (!begun) return;
  const place = placeOf(event);
  if (tool === 'brush' || tool === 'eraser') stroke(begun.last, place);
  else if (tool.startsWith('box')) boxes.set(page.people[Number(tool.slice(4))].id, ordered(begun.from, place));
  begun.last = place;
  draw();
  if (tool === 'area') {
    const [left, top, right, bottom] = ordered(begun.from, place);
    const pen = shown.getContext('2d');
    pen.strokeStyle = '#ff0078';
    pen.strokeRect(left * shown.width, top * shown.height, (right - left) * shown.width, (bottom - top) * shown.height);
  }
});
shown.addEventListener('pointerup', (event) => {
  if (!begun) return;
  const [left, top, right, bottom] = ordered(begun.from, placeOf(event));
  const small = right - left < 0.02 || bottom - top < 0.02;
  if (tool === 'area' && !small) {
    const pen = mask.getContext('2d');
    pen.fillStyle = 'white';
    pen.fillRect(left * mask.width, top * mask.height, (right - left) * mask.width, (bottom - top) * mask.height);
    painted = true;
  }
  if (tool.startsWith('box')) {
    const person = page.people[Number(tool.slice(4))];
    if (small) boxes.delete(person.id);
    else boxes.set(person.id, [left, top, right, bottom].map((value) => Math.round(value * 1000) / 1000));
  }
  begun = null;
  arrange();
});
page.changed.addEventListener('people', () => {
  for (const id of [...boxes.keys()]) if (!page.people.some((person) => person.id === id)) boxes.delete(id);
  arrange();
});
arrange();
