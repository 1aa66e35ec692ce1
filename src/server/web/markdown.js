'use strict';
// Markdown to DOM nodes. Text becomes text nodes only, never HTML, so nothing that a model says can be more than text.
const Markdown = (() => {
  const el = (name, children = [], attributes = {}) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  // Inline: `code`, **strong**, *emphasis*, ~~struck~~, [text](address), bare addresses. Links lead to http, https and mailto only.
  const inlinePattern = /(`+)([\s\S]+?)\1(?!`)|\*\*(\S(?:[\s\S]*?\S)?)\*\*|\*(\S(?:[^*]*?\S)?)\*|(?<!\w)_(\S(?:[^_]*?\S)?)_(?!\w)|~~(\S(?:[\s\S]*?\S)?)~~|\[([^\]\n]+)\]\(([^()\s]+)\)|(https?:\/\/[^\s<>"')\]]+)/;

  function link(address, children) {
    if (!/^(https?:|mailto:)/i.test(address)) return children;
    return [el('a', children, { href: address, target: '_blank', rel: 'noopener noreferrer nofollow' })];
  }

  function inline(text, depth = 0) {
    const out = [];
    while (text !== '') {
      const m = depth < 8 ? inlinePattern.exec(text) : null;
      if (m === null) { out.push(text); break; }
      if (m.index > 0) out.push(text.slice(0, m.index));
      if (m[2] !== undefined) out.push(el('code', [m[2].trim()]));
      else if (m[3] !== undefined) out.push(el('strong', inline(m[3], depth + 1)));
      else if (m[4] !== undefined) out.push(el('em', inline(m[4], depth + 1)));
      else if (m[5] !== undefined) out.push(el('em', inline(m[5], depth + 1)));
      else if (m[6] !== undefined) out.push(el('del', inline(m[6], depth + 1)));
      else if (m[7] !== undefined) out.push(...link(m[8], inline(m[7], depth + 1)));
      else out.push(...link(m[9], [m[9]]));
      text = text.slice(m.index + m[0].length);
    }
    return out;
  }

  function paragraph(lines) {
    const children = [];
    lines.forEach((line, i) => {
      if (i > 0) children.push(/ {2,}$/.test(lines[i - 1]) ? el('br') : '\n');
      children.push(...inline(line.trim()));
    });
    return el('p', children);
  }

  const cells = (line) => line.trim().replace(/^\||\|$/g, '').split('|').map((c) => c.trim());
  const marker = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

  function list(lines, at, depth) {
    const first = marker.exec(lines[at]);
    const ordered = /\d/.test(first[2]);
    const node = el(ordered ? 'ol' : 'ul');
    if (ordered && parseInt(first[2], 10) !== 1) node.setAttribute('start', parseInt(first[2], 10));
    const indent = first[1].length;
    while (at < lines.length) {
      const m = marker.exec(lines[at]);
      if (m === null || m[1].length < indent || /\d/.test(m[2]) !== ordered) break;
      const inner = [m[3]];
      at++;
      while (at < lines.length && (/^\s{2,}\S/.test(lines[at]) || (lines[at].trim() !== '' && marker.exec(lines[at]) === null && inner.length > 0 && !/^(#|```|>)/.test(lines[at])))) {
        const nested = marker.exec(lines[at]);
        if (nested !== null && nested[1].length <= indent) break;
        inner.push(lines[at].replace(new RegExp(`^\\s{0,${indent + 2}}`), ''));
        at++;
      }
      node.append(el('li', blocks(inner, depth + 1)));
      while (at + 1 < lines.length && lines[at].trim() === '' && marker.exec(lines[at + 1]) !== null) at++;
    }
    return [node, at];
  }

  function blocks(lines, depth = 0) {
    const out = [];
    let at = 0;
    while (at < lines.length) {
      const line = lines[at];
      const fence = /^\s*(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
      const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
      if (line.trim() === '') { at++; continue; }
      if (fence !== null) {
        const code = [];
        for (at++; at < lines.length && !lines[at].trim().startsWith(fence[1]); at++) code.push(lines[at]);
        at++;
        out.push(el('pre', [el('code', [code.join('\n')])], { tabindex: '0' }));
      } else if (heading !== null) {
        out.push(el('h' + Math.min(heading[1].length + 2, 6), inline(heading[2])));
        at++;
      } else if (/^\s*([-*_])\s*(\1\s*){2,}$/.test(line)) {
        out.push(el('hr'));
        at++;
      } else if (/^\s*>/.test(line) && depth < 6) {
        const quoted = [];
        for (; at < lines.length && /^\s*>/.test(lines[at]); at++) quoted.push(lines[at].replace(/^\s*> ?/, ''));
        out.push(el('blockquote', blocks(quoted, depth + 1)));
      } else if (marker.test(line) && depth < 6) {
        const [node, next] = list(lines, at, depth);
        out.push(node);
        at = next;
      } else if (line.includes('|') && at + 1 < lines.length && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1]) && lines[at + 1].includes('-')) {
        const head = el('tr', cells(line).map((c) => el('th', inline(c))));
        const rows = [];
        for (at += 2; at < lines.length && lines[at].includes('|'); at++) rows.push(el('tr', cells(lines[at]).map((c) => el('td', inline(c)))));
        out.push(el('table', [el('thead', [head]), el('tbody', rows)]));
      } else {
        const text = [line];
        for (at++; at < lines.length && lines[at].trim() !== '' && !/^\s*(```|~~~|#{1,6}\s|>)/.test(lines[at]) && !marker.test(lines[at]); at++) text.push(lines[at]);
        out.push(paragraph(text));
      }
    }
    return out;
  }

  return { render: (text) => blocks(text.split(/\r?\n/)) };
})();
