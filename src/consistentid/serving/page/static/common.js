// What the parts of the page share: making elements, reading files, and who and what is on the page.
const page = (window.consistentid ??= { people: [], before: null, changed: new EventTarget() });
const root = element.querySelector('div[class^=cid-]');

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== 'string') made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ''));
  return made;
}

function button(text, onclick, attributes = {}) {
  return make('button', { type: 'button', class: 'cid-button', onclick, ...attributes }, text);
}

function labelled(text, control, attributes = {}) {
  return make('label', { class: 'cid-field', ...attributes }, make('span', {}, text), control);
}

async function base64Of(blob) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
  return url.slice(url.indexOf(',') + 1);
}

function blobOf(base64, type) {
  const text = atob(base64);
  return new Blob([Uint8Array.from(text, (c) => c.charCodeAt(0))], { type });
}

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = make('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// A place to drop files on, which is also a button that chooses them.
function dropZone(text, accept, multiple, taken) {
  const input = make('input', { type: 'file', accept, multiple, class: 'cid-file' });
  const zone = make('label', { class: 'cid-drop' }, input, make('span', {}, text));
  input.addEventListener('change', () => {
    const files = [...input.files];
    input.value = '';
    if (files.length) taken(files);
  });
  for (const name of ['dragenter', 'dragover', 'dragleave', 'drop']) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      event.stopPropagation();
      zone.classList.toggle('over', name === 'dragenter' || name === 'dragover');
      if (name === 'drop' && event.dataTransfer.files.length) taken([...event.dataTransfer.files]);
    });
  }
  return zone;
}

function tooLarge(bytes) {
  const most = props.most;
  if (bytes * 1.34 < most - 65536) return '';
  return `These files have ${(bytes / 1e6).toFixed(1)} MB together, and at most ${(most / 1.34e6).toFixed(0)} MB fit into one`
    + ' request; choose fewer or smaller ones.';
}

