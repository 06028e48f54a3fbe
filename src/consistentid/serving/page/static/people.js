// Who is to be drawn: photos or saved identities of people, what was seen of them, and what is said of each.
const people = page.people;
people.length = 0;
let count = 0;
const cards = make('div', { class: 'cid-cards' });
const say = make('p', { class: 'cid-error', role: 'alert' });
const zone = dropZone(
  'Drop photos of one person here, or choose them; or a saved identity (.safetensors)',
  'image/*,.safetensors', true, (files) => add(files),
);
root.append(cards, say, zone);
if (props.drawn) {
  root.append(button('Draw me somebody', async () => {
    const drawn = await ask('invent', {}, say);
    if (drawn) add([new File([blobOf(drawn.photo, 'image/png')], 'somebody.png', { type: 'image/png' })]);
  }, { class: 'cid-button cid-invent' }));
}

function publish() {
  props.value = {
    people: people.map((person) => ({
      name: person.name,
      identity: person.identity,
      words: person.words,
      scale: person.scale,
      parts: { ...person.parts },
      part_scales: { ...person.partScales },
      borrow: Object.fromEntries(
        Object.entries(person.borrow).map(([part, id]) => [part, people.findIndex((other) => other.id === id)]),
      ),
    })),
  };
  page.changed.dispatchEvent(new Event('people'));
}

async function ask(name, sent, where) {
  where.textContent = '';
  try {
    const answer = await server[name](sent);
    if (!answer.error) return answer;
    where.textContent = answer.error;
  } catch {
    where.textContent = 'The service does not answer; is it still running? Try again.';
  }
  return null;
}

async function add(files, person) {
  say.textContent = '';
  const saved = files.filter((file) => file.name.endsWith('.safetensors'));
  const large = tooLarge([...files, ...(person ? person.files : [])].reduce((sum, file) => sum + file.size, 0));
  if (large) {
    say.textContent = large;
    return;
  }
  for (const file of saved) await addSaved(file);
  const photos = files.filter((file) => !saved.includes(file));
  if (!photos.length) return;
  if (!person) person = addPerson();
  person.files.push(...photos);
  await look(person);
}

function addPerson() {
  count += 1;
  const person = {
    id: count, name: `Person ${count}`, files: [], seen: [], identity: '', visible: null, message: '', notes: [],
    busy: false, face: null, words: '', scale: 1, parts: {}, partScales: {}, borrow: {}, sentence: '',
  };
  people.push(person);
  person.card = make('section', { class: 'cid-card' });
  cards.append(person.card);
  return person;
}

async function addSaved(file) {
  const answer = await ask('read', { identity: await base64Of(file) }, say);
  if (!answer) return;
  const person = addPerson();
  person.name = file.name.replace(/\.safetensors$/, '');
  Object.assign(person, { identity: answer.identity, visible: answer.parts, sentence: answer.face_text });
  show(person);
  publish();
}

// The answer to an older question is of no use once photos were added or another face was chosen.
async function look(person) {
  const turn = (person.turn = (person.turn || 0) + 1);
  Object.assign(person, { busy: true, message: '', identity: '', visible: null, seen: [], notes: [] });
  show(person);
  publish();
  const photos = await Promise.all(person.files.map(base64Of));
  const error = make('p');
  const answer = await ask('identify', { photos, face_index: person.face }, error);
  if (turn !== person.turn || !people.includes(person)) return;
  person.busy = false;
  person.message = error.textContent;
  if (answer) {
    Object.assign(person, {
      identity: answer.identity, visible: answer.parts, seen: answer.photos, notes: answer.warnings,
    });
  }
  show(person);
  publish();
}

function remove(person) {
  people.splice(people.indexOf(person), 1);
  person.card.remove();
  for (const other of people) {
    for (const [part, id] of Object.entries(other.borrow)) if (id === person.id) delete other.borrow[part];
    show(other);
  }
  publish();
}

function quality(value) {
  return value >= 0.5 ? 'good' : value >= 0.15 ? 'fair' : 'poor';
}

// A photo with the face that was found in a frame; the frame's place is in shares of the picture, so it fits any width.
function photoOf(file, seen) {
  const frame = make('figure', { class: 'cid-photo' });
  const url = URL.createObjectURL(file);
  const image = make('img', { alt: file.name });
  image.onload = () => {
    if (seen) {
      const [left, top, right, bottom] = seen.box;
      const box = make('span', { class: 'cid-box', title: 'the face that was found' });
      const share = (value, of) => `${(100 * value) / of}%`;
      Object.assign(box.style, {
        left: share(left, image.naturalWidth), top: share(top, image.naturalHeight),
        width: share(right - left, image.naturalWidth), height: share(bottom - top, image.naturalHeight),
      });
      frame.append(box);
    }
    URL.revokeObjectURL(url);
  };
  image.src = url;
  frame.append(image);
  return frame;
}

function told(person) {
  if (person.busy) return [make('p', { role: 'status', class: 'cid-busy' }, 'Looking…')];
  if (person.message) return [make('p', { class: 'cid-error', role: 'alert' }, person.message)];
  const lines = person.seen.map((seen, number) => {
    const which = person.seen.length > 1 ? `Photo ${number + 1}: face` : 'Face';
    const several = seen.faces > 1 ? `, one of ${seen.faces} (number ${seen.face_index})` : '';
    const size = Math.round(Math.max(seen.box[2] - seen.box[0], seen.box[3] - seen.box[1]));
    const words = `${which} of ${size} pixels${several}, quality ${quality(seen.quality)} (${seen.quality.toFixed(2)})`;
    return make('p', {}, words);
  });
  if (!person.seen.length) lines.push(make('p', {}, 'A saved identity: it holds no photo.'));
  const parts = props.parts.map((part) => {
    const there = person.visible.includes(part);
    return make('li', { class: there ? 'there' : 'hidden-part' }, `${there ? '✓' : '–'} ${part}`);
  });
  lines.push(make('ul', { class: 'cid-parts', 'aria-label': 'Parts that were seen' }, ...parts));
  const notes = [...person.seen.flatMap((seen) => seen.warnings), ...person.notes];
  for (const note of new Set(notes)) lines.push(make('p', { class: 'cid-note' }, `Note: ${note}`));
  return lines;
}

function show(person) {
  const name = make('input', {
    value: person.name, 'aria-label': 'Name', class: 'cid-name', maxlength: '40',
    onchange: (event) => { person.name = event.target.value.trim() || person.name; publish(); },
  });
  const actions = make('div', { class: 'cid-actions' });
  if (person.files.length) {
    const more = make('input', { type: 'file', accept: 'image/*', multiple: true, class: 'cid-file' });
    more.addEventListener('change', () => { const files = [...more.files]; if (files.length) add(files, person); });
    actions.append(make('label', { class: 'cid-button' }, more, 'Add photos'));
  }
  if (person.identity) {
    actions.append(button('Save identity', () => {
      download(blobOf(person.identity, 'application/octet-stream'), `${person.name}.safetensors`);
    }));
  }
  actions.append(button('Remove', () => remove(person), { 'aria-label': `Remove ${person.name}` }));
  const photos = person.files.map((file, number) => photoOf(file, person.busy ? null : person.seen[number]));
  const open = person.card.querySelector('details')?.open || false;
  person.card.replaceChildren(
    ...(photos.length ? [make('div', { class: 'cid-photos' }, ...photos)] : []),
    make('div', { class: 'cid-about' }, name, ...told(person), actions),
    details(person, open),
  );
}

function details(person, open) {
  const form = make('div', { class: 'cid-details' });
  const text = (label, value, placeholder, taken) => form.append(labelled(label, make('input', {
    value, placeholder, maxlength: '300', onchange: (event) => { taken(event.target.value.trim()); publish(); },
  })));
  if (person.files.length) {
    form.append(labelled('Which face, where there are several: 0 is the largest', make('input', {
      type: 'number', min: '0', max: '99', value: person.face === null ? '' : String(person.face), placeholder: 'by itself',
      onchange: (event) => {
        person.face = event.target.value === '' ? null : Math.max(0, Math.floor(Number(event.target.value)));
        look(person);
      },
    })));
  }
  text('Words about this person alone', person.words, 'a woman in a red dress', (value) => { person.words = value; });
  const shown = make('output', {}, person.scale.toFixed(2));
  form.append(labelled('Strength, among several people', make('span', { class: 'cid-range' }, make('input', {
    type: 'range', min: '0', max: '2', step: '0.05', value: String(person.scale),
    oninput: (event) => { person.scale = Number(event.target.value); shown.textContent = person.scale.toFixed(2); },
    onchange: () => publish(),
  }), shown)));
  for (const part of props.parts) {
    text(`Words for the ${part}`, person.parts[part] || '', part === 'eyes' ? 'green eyes' : '', (value) => {
      if (value) person.parts[part] = value;
      else delete person.parts[part];
    });
  }
  for (const part of props.parts) {
    form.append(labelled(`Strength of the ${part}`, make('input', {
      type: 'number', min: '0', max: '2', step: '0.1', placeholder: '1', value: String(person.partScales[part] ?? ''),
      onchange: (event) => {
        if (event.target.value === '') delete person.partScales[part];
        else person.partScales[part] = Number(event.target.value);
        publish();
      },
    })));
  }
  const others = people.filter((other) => other !== person && other.identity);
  if (others.length) {
    for (const part of props.parts) {
      const choice = make('select', {
        onchange: (event) => {
          if (event.target.value) person.borrow[part] = Number(event.target.value);
          else delete person.borrow[part];
          publish();
        },
      }, make('option', { value: '' }, 'their own'), ...others.map((other) => make('option', {
        value: String(other.id), selected: person.borrow[part] === other.id,
      }, `of ${other.name}`)));
      form.append(labelled(`Whose ${part}`, choice));
    }
  }
  return make('details', { open }, make('summary', {}, 'Words, strength and parts'), form);
}

page.changed.addEventListener('redraw', () => people.forEach(show));
publish();
