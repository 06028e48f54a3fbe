// Pictures while they are made, those that were made, and those of earlier in this visit.
const say = make('p', { class: 'cid-say', role: 'status', 'aria-live': 'polite' });
const error = make('p', { class: 'cid-error', role: 'alert' });
const bar = make('progress', { max: '1', 'aria-label': 'Progress', hidden: true });
const previews = make('div', { class: 'cid-gallery cid-previews', 'aria-label': 'Pictures being made' });
const gallery = make('div', { class: 'cid-gallery', 'aria-label': 'Pictures' });
const about = make('div', { class: 'cid-about-run' });
const past = make('div', { class: 'cid-past' });
const empty = make('p', { class: 'cid-empty' }, 'Pictures appear here.');
root.append(say, error, bar, previews, empty, gallery, about, past);
const runs = [];
let current = null;
let running = null; // the run that was last heard of
let stopped = null; // the run that was cancelled

function seconds(left) {
  if (left === null || left === undefined) return '';
  return left >= 90 ? `about ${Math.round(left / 60)} min left` : `about ${Math.max(1, Math.round(left))} s left`;
}

function progress(told) {
  const stages = { encoding: 'Reading the words', sampling: 'Drawing', scoring: 'Comparing the faces' };
  const steps = told.total ? `step ${told.done} of ${told.total}` : '';
  const name = stages[told.stage] || told.stage || told.message || 'Waiting';
  say.textContent = [name, steps, seconds(told.seconds_left)].filter(Boolean).join(' · ');
  bar.hidden = false;
  if (told.total) bar.value = told.done / told.total;
  else bar.removeAttribute('value');
  if (told.previews?.length) {
    const images = told.previews.map((data, number) => {
      const image = previews.children[number] || make('img', { alt: `Picture ${number + 1}, unfinished` });
      image.src = `data:image/png;base64,${data}`;
      return image;
    });
    previews.replaceChildren(...images);
  }
}

function idle(text = '') {
  say.textContent = text;
  bar.hidden = true;
  previews.replaceChildren();
}

function likeness(picture) {
  if (picture.withheld) return 'withheld by the safety checker';
  if (picture.likeness === null) return 'no face found';
  return `likeness ${picture.likeness.toFixed(2)}`;
}

function quoted(text) {
  return `'${String(text).replaceAll("'", "'\\''")}'`;
}

function repairOf(run, picture) {
  const said = run.request;
  const line = ['consistentid repair PICTURE'];
  run.names.forEach((name, number) => {
    const place = said.regions ? `@${said.regions[number].join(',')}` : '';
    line.push(`--person ${quoted(`${name}.safetensors${place}`)}`);
  });
  line.push(`--prompt ${quoted(picture.prompt)}`, `--seed ${picture.seed}`);
  if (run.preset) line.push(`--preset ${run.preset}`);
  for (const [name, option] of [['num_inference_steps', '--steps'], ['repair_below', '--below'], ['repair_tries', '--tries']]) {
    if (said[name] !== undefined) line.push(`${option} ${quoted(said[name])}`);
  }
  for (const words of said.person_prompts || []) line.push(`--person-prompt ${quoted(words)}`);
  return line.join(' ');
}

// The line that makes a picture again in a shell, from the saved identities.
function commandOf(run, picture) {
  const options = {
    negative_prompt: '--negative-prompt', num_inference_steps: '--steps', guidance_scale: '--guidance', scale: '--id-scale',
    merge_at: '--merge-at', strength: '--strength', face_text: '--face-text', repair_below: '--repair-below',
    repair_tries: '--repair-tries',
  };
  const said = run.request;
  if (said.only_repair) return repairOf(run, picture);
  const place = (number) => (said.regions ? `@${said.regions[number].join(',')}` : '');
  const names = run.names.map((name) => quoted(`${name}.safetensors`));
  const line = ['consistentid generate'];
  if (names.length === 1 && !said.regions) line.push(names[0]);
  else run.names.forEach((name, number) => line.push(`--person ${quoted(`${name}.safetensors${place(number)}`)}`));
  line.push(`--prompt ${quoted(picture.prompt)}`, `--seed ${picture.seed}`, '--num 1');
  if (run.preset) line.push(`--preset ${run.preset}`);
  for (const [name, option] of Object.entries(options)) if (said[name] !== undefined) line.push(`${option} ${quoted(said[name])}`);
  if (said.repair) line.push('--repair');
  for (const words of said.person_prompts || []) line.push(`--person-prompt ${quoted(words)}`);
  for (const strength of said.person_scales || []) line.push(`--person-scale ${strength}`);
  [].concat(said.parts || []).forEach((parts, number, all) => {
    for (const [part, words] of Object.entries(parts)) {
      line.push(`--part ${quoted(`${all.length > 1 ? `${number + 1}:` : ''}${part}=${words}`)}`);
    }
  });
  [].concat(said.part_scales || []).forEach((scales, number, all) => {
    for (const [part, scale] of Object.entries(scales)) {
      line.push(`--part-scale ${quoted(`${all.length > 1 ? `${number + 1}:` : ''}${part}=${scale}`)}`);
    }
  });
  if (run.before) line.push('--image PICTURE');
  if (run.masked) line.push('--mask MASK');
  return line.join(' ');
}

function compare(before, after) {
  const top = make('img', { src: before, alt: 'Before' });
  const line = make('span', { class: 'cid-line' });
  const cut = (share) => {
    top.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    line.style.left = `${share}%`;
  };
  const slider = make('input', {
    type: 'range', min: '0', max: '100', value: '50', 'aria-label': 'Before or after',
    oninput: (event) => cut(Number(event.target.value)),
  });
  cut(50);
  return make('div', { class: 'cid-compare' }, make('div', { class: 'cid-pair' }, make('img', { src: after, alt: 'After' }), top, line), slider);
}

function card(run, picture, number) {
  const name = `portrait-${picture.seed}.png`;
  const again = make('details', {}, make('summary', {}, 'Make it again'),
    make('code', { class: 'cid-command' }, commandOf(run, picture)),
    button('Use these settings', () => trigger('reuse', { request: { ...run.request, seed: picture.seed, num_images_per_prompt: 1, best_of: undefined } })));
  const actions = make('div', { class: 'cid-actions' }, make('a', { class: 'cid-button', href: picture.url, download: name }, 'Download'));
  const image = make('img', { src: picture.url, alt: `${picture.prompt}, seed ${picture.seed}`, width: picture.width, height: picture.height });
  const shown = make('div', { class: 'cid-shown' }, image);
  const before = run.before || run.photo;
  if (before) {
    let open = false;
    const toggle = button('Compare', () => {
      open = !open;
      toggle.setAttribute('aria-pressed', String(open));
      shown.replaceChildren(open ? compare(before, picture.url) : image);
    }, { 'aria-pressed': 'false', title: run.before ? 'with the picture that was changed' : 'with the photo' });
    actions.append(toggle);
  }
  const meter = picture.likeness === null ? null : make('meter', { min: '0', max: '1', low: '0.3', high: '0.5', optimum: '1', 'aria-label': 'Likeness' });
  if (meter) meter.value = Math.max(0, picture.likeness);
  return make('figure', { class: 'cid-made' }, shown,
    make('figcaption', {}, make('span', {}, likeness(picture)), meter, make('span', { class: 'cid-seed' }, `seed ${picture.seed}`)),
    actions, again);
}

function showRun(run) {
  current = run;
  empty.hidden = true;
  gallery.replaceChildren(...run.pictures.map((picture, number) => card(run, picture, number)));
  const notes = run.warnings.map((note) => make('p', { class: 'cid-note' }, `Note: ${note}`));
  about.replaceChildren(make('p', { class: 'cid-prompt' }, `${run.names.join(', ')}: ${run.request.prompt}`), ...notes);
  const others = runs.map((other, number) => make('button', {
    type: 'button', class: `cid-thumb${other === current ? ' chosen' : ''}`, onclick: () => showRun(other),
    'aria-label': `Pictures ${number + 1}: ${other.request.prompt}`, title: other.request.prompt,
  }, make('img', { src: other.pictures[0].url, alt: '' })));
  past.replaceChildren();
  if (runs.length > 1) past.append(make('h3', {}, 'This visit'), make('div', { class: 'cid-strip' }, ...others.reverse()));
}

function finished(told) {
  if (runs.some((run) => run.id === told.run)) return;
  for (const picture of told.pictures) {
    picture.url = URL.createObjectURL(blobOf(picture.b64_json, 'image/png'));
    delete picture.b64_json;
  }
  const first = page.people[0]?.files[0];
  const run = {
    id: told.run, pictures: told.pictures, request: told.request, warnings: told.warnings, record: told.record, preset: told.record.preset,
    names: told.names, before: told.changed ? page.before : null, masked: told.masked,
    photo: first ? URL.createObjectURL(first) : null,
  };
  runs.push(run);
  showRun(run);
}

function show() {
  const told = props.value;
  if (!told || told.run === stopped) return;
  running = told.run;
  error.textContent = told.state === 'failed' ? told.message : '';
  root.dataset.state = told.state;
  if (told.state === 'done') {
    finished(told);
    idle();
  } else if (told.state === 'failed') idle();
  else progress(told);
}
watch('value', show);

// What was on its way when somebody cancelled arrives later, so the press of the button counts, not the server's word.
document.addEventListener('click', (event) => {
  if (bar.hidden || !event.target.closest?.('#cid-cancel')) return;
  stopped = running;
  root.dataset.state = 'cancelled';
  idle('Cancelled.');
});
