// Trees of nodes, and how one that is shown becomes another: focus, selection and scroll stay where they are.

/** An element. Text goes in as text nodes only: names of jobs and reasons are other people's words. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Show these children in `element`, in the place of those that it has. */
export function show(element, ...children) {
  const next = element.cloneNode(false);
  next.append(...children.flat(Infinity).filter(Boolean));
  morphChildren(element, next);
}

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null);

const isSame = (live, next) => live.nodeName === next.nodeName && keyOf(live) === keyOf(next);

function morph(live, next) {
  if (live.nodeType === Node.TEXT_NODE) {
    if (live.data !== next.data) live.data = next.data;
    return;
  }
  for (const { name } of [...live.attributes]) if (!next.hasAttribute(name)) live.removeAttribute(name);
  for (const { name, value } of next.attributes) if (live.getAttribute(name) !== value) live.setAttribute(name, value);
  morphChildren(live, next);
}

function morphChildren(live, next) {
  const coming = new Set([...next.childNodes].map(keyOf));
  for (const child of [...live.childNodes]) if (keyOf(child) !== null && !coming.has(keyOf(child))) child.remove();
  const keyed = new Map([...live.childNodes].filter((child) => keyOf(child) !== null).map((child) => [keyOf(child), child]));
  let at = live.firstChild;
  for (const child of [...next.childNodes]) {
    const known = keyOf(child) === null ? at : keyed.get(keyOf(child));
    if (known && isSame(known, child)) {
      if (known === at) at = at.nextSibling;
      else live.insertBefore(known, at);
      morph(known, child);
    } else live.insertBefore(child, at);
  }
  while (at) {
    const after = at.nextSibling;
    at.remove();
    at = after;
  }
}
