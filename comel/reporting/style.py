"""The style sheet of a report: light and dark, on paper one section under another."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1c1e22; --faint: #5b616b; --rule: #d5d9df; --panel: #f4f6f8;
  --c0: #0072b2; --c1: #d55e00; --c2: #00855f; --c3: #a3528a; --c4: #8a6d00; --c5: #2b7fa8; --c6: #5b616b; --bar: #bcd9ee; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181c; --ink: #e9ebee; --faint: #a9b0bb;
  --rule: #3a3f48; --panel: #20242a;
  --c0: #56b4e9; --c1: #f08a3c; --c2: #2fc49a; --c3: #e09ac8; --c4: #e6c229; --c5: #9ad1f0; --c6: #b9c0ca; --bar: #2c4f69; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 28px 60px; max-width: 1180px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 44px 0 6px; padding-top: 14px; border-top: 3px solid var(--ink); overflow-wrap: anywhere; }
h3 { font-size: 17px; margin: 30px 0 8px; }
p { margin: 6px 0; max-width: 90ch; }
a { color: var(--c0); }
nav ul { margin: 10px 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; }
.note, .notice, .about { color: var(--faint); font-size: 13.5px; }
.notice { border-left: 4px solid var(--c1); padding-left: 10px; color: var(--ink); }
.warning { border-left: 4px solid var(--c1); padding: 4px 10px; background: var(--panel); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 12px 0; }
.card { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: 8px 16px; min-width: 150px; }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.card span { color: var(--faint); font-size: 13px; }
.wide { overflow-x: auto; margin: 10px 0 14px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 4px; white-space: nowrap; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { font-weight: 600; overflow-wrap: break-word; }
th[scope=row], thead th:first-child, thead td:first-child { text-align: left; font-weight: 500; }
thead th, thead td { color: var(--faint); border-bottom: 2px solid var(--rule); vertical-align: bottom; }
.heats td { min-width: 62px; text-align: center; }
.heats th[scope=col] { text-align: center; max-width: 160px; }
th[scope=row] { max-width: 260px; }
.facts th[scope=row] { max-width: none; }
.heats .heat { color: #10141a; border: 1px solid var(--ground); -webkit-print-color-adjust: exact;
  print-color-adjust: exact; }
.heats .faint { font-style: italic; }
.facts th { color: var(--faint); white-space: nowrap; }
td { white-space: nowrap; }
.facts td { text-align: left; overflow-wrap: anywhere; white-space: normal; }
.grid-of-tables { display: flex; flex-wrap: wrap; gap: 6px 40px; align-items: flex-start; }
.grid-of-tables > details { flex-basis: 100%; }
.figures { display: flex; flex-wrap: wrap; gap: 18px 26px; align-items: flex-start; margin: 10px 0; }
figure { margin: 0; max-width: 100%; }
figure > svg { max-width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 11.5px; }
svg .title { fill: var(--ink); font-size: 13.5px; font-weight: 600; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis { stroke: var(--faint); fill: none; }
svg .border { stroke: var(--faint); stroke-dasharray: 3 3; }
svg .bar { fill: var(--bar); stroke: var(--c0); stroke-width: 0.8; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .dot { stroke: var(--ground); stroke-width: 1; }
svg .line.c0 { stroke: var(--c0); } svg .line.c1 { stroke: var(--c1); } svg .line.c2 { stroke: var(--c2); }
svg .line.c3 { stroke: var(--c3); } svg .line.c4 { stroke: var(--c4); } svg .line.c5 { stroke: var(--c5); }
svg .line.c6 { stroke: var(--c6); }
svg .dot.c0 { fill: var(--c0); } svg .dot.c1 { fill: var(--c1); } svg .dot.c2 { fill: var(--c2); }
svg .dot.c3 { fill: var(--c3); } svg .dot.c4 { fill: var(--c4); } svg .dot.c5 { fill: var(--c5); }
  svg .dot.c6 { fill: var(--c6); }
.legend { list-style: none; margin: 2px 0 0; padding: 0 0 0 40px; display: flex; flex-wrap: wrap;
  gap: 0 16px; font-size: 12.5px; }
.legend svg { vertical-align: -1px; }
.maps { display: flex; flex-wrap: wrap; gap: 16px; }
.maps figure { width: 352px; }
.maps img { max-width: 100%; border: 1px solid var(--rule); display: block; }
.maps figcaption { font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }
pre { background: var(--panel); border: 1px solid var(--rule); padding: 10px 14px; overflow-x: auto; font-size: 12.5px; }
details { margin: 8px 0; }
summary { cursor: pointer; }
footer { margin-top: 40px; border-top: 1px solid var(--rule); padding-top: 8px; }
@media print {
  :root { color-scheme: light; --ground: #ffffff; --ink: #000000; --faint: #444a52; --rule: #c4c9d0; --panel: #f4f6f8;
    --c0: #0072b2; --c1: #d55e00; --c2: #00855f; --c3: #a3528a; --c4: #8a6d00; --c5: #2b7fa8; --c6: #5b616b; --bar: #bcd9ee; }
  body { max-width: none; padding: 0; font-size: 11px; }
  nav { display: none; }
  .run { break-before: page; }
  h2, h3, h4, caption { break-after: avoid; }
  figure, tr, .card, .warning { break-inside: avoid; }
  .heats { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 10.5px; }
  th, td { padding: 3px 7px; }
  pre { white-space: pre-wrap; }
  .heats td { min-width: 44px; }
  .grid-of-tables { gap: 2px 24px; }
  .figures { gap: 10px 2%; }
  .figures figure { max-width: 49%; }
  .figures figure.broad { max-width: 100%; }
  .maps figure { width: 31%; }
}
""".strip()
