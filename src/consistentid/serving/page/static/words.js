// The words that the preset has learned; pressing one puts it into the prompt.
function show() {
  if (!props.value) return;
  const groups = Object.entries(props.value).map(([subject, words]) => make(
    'div', { class: 'cid-group' }, make('span', { class: 'cid-subject' }, subject),
    ...words.map((word) => button(word, () => trigger('word', { words: word }), { class: 'cid-chip' })),
  ));
  root.replaceChildren(make('details', {}, make('summary', {}, 'Words this preset knows'), ...groups));
}
watch('value', show);
show();
