// SPDX-License-Identifier: Apache-2.0
// Fills the report: the viewer, the thumbnails, and the views from above and from the side.

// The axes of a view: to the right, upwards, and towards the eye.
const ABOVE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
const SIDE = [[1, 0, 0], [0, 0, 1], [0, -1, 0]];

function drawView(painter, canvas, scene, axes, ceiling) {
  const ratio = fitCanvas(canvas), {width, height} = canvas, [right, up, back] = axes;
  const corners = [scene.low, scene.high.slice()];
  corners[1][2] = Math.min(corners[1][2], ceiling);
  const range = axis => corners.map(one => dot(axis, one)).sort((a, b) => a - b);
  const spans = [range(right), range(up)], depth = range(back);
  const margin = 26 * ratio;
  const scale = Math.min((width - 2 * margin) / Math.max(spans[0][1] - spans[0][0], 1e-9),
    (height - 2 * margin) / Math.max(spans[1][1] - spans[1][0], 1e-9));
  const middle = spans.map(one => .5 * (one[0] + one[1]));
  const far = 10 * (depth[1] - depth[0]) + 1e-6, centre = .5 * (depth[0] + depth[1]);
  const matrix = [
    ...right.map(one => one * 2 * scale / width), -middle[0] * 2 * scale / width,
    ...up.map(one => one * 2 * scale / height), -middle[1] * 2 * scale / height,
    ...back.map(one => -one / far), centre / far, 0, 0, 0, 1];
  [painter.canvas.width, painter.canvas.height] = [width, height];
  painter.draw(matrix, Math.max(scene.size * scale, ratio), [0, 1], ceiling, 0,
    colorOf('--scene'));
  const context = canvas.getContext('2d');
  context.drawImage(painter.canvas, 0, 0);
  const seen = point => {
    const [x, y] = project(matrix, point);
    return [width * (.5 + .5 * x), height * (.5 - .5 * y)];
  };
  context.lineCap = context.lineJoin = 'round';
  drawCameras(context, scene, seen, 2 * ratio, 'rgba(0,0,0,.6)');
  drawScaleBar(context, scale, scene.metres, width, height, ratio);
}

function drawScaleBar(context, scale, metres, width, height, ratio) {
  const perUnit = scale / (metres || 1), power = 10 ** Math.floor(Math.log10(.3 * width / perUnit));
  const length = [5, 2, 1].map(one => one * power).find(one => one * perUnit <= .3 * width);
  const left = 14 * ratio, bottom = height - 14 * ratio;
  const number = Number(length.toPrecision(3));
  const label = `${number} ${metres ? 'm' : number === 1 ? 'map unit' : 'map units'}`;
  context.font = `${13 * ratio}px system-ui, sans-serif`;
  const [r, g, b] = colorOf('--scene').map(one => Math.round(255 * one));
  for (const [style, wide] of [[`rgba(${r},${g},${b},.85)`, 5], [null, 2.5]]) {
    context.strokeStyle = style || getComputedStyle(document.body).color;
    context.fillStyle = context.strokeStyle;
    context.lineWidth = wide * ratio;
    context.beginPath();
    context.moveTo(left, bottom);
    context.lineTo(left + length * perUnit, bottom);
    context.stroke();
    if (style) context.strokeText(label, left, bottom - 8 * ratio);
    else context.fillText(label, left, bottom - 8 * ratio);
  }
}

function drawViews(scene) {
  const painter = new Painter(document.createElement('canvas'));
  painter.load(decodeCloud(scene.points));
  const ceiling = scene.ceiling === null ? 1e30 : scene.ceiling;
  drawView(painter, document.getElementById('above'), scene, ABOVE, ceiling);
  drawView(painter, document.getElementById('side'), scene, SIDE, 1e30);
  painter.release();
}

function connectThumbnails(viewer, scene) {
  const buttons = [...document.querySelectorAll('[data-keyframe]')];
  const preview = document.getElementById('selected');
  buttons.forEach((button, index) => {
    button.querySelector('img').src = scene.keyframes[index].image;
    button.setAttribute('aria-pressed', 'false');
    button.onclick = () => {
      const chosen = viewer.state.selected === index ? -1 : index;
      buttons.forEach((one, i) => one.setAttribute('aria-pressed', String(i === chosen)));
      preview.hidden = chosen < 0;
      preview.querySelector('img').src = scene.keyframes[index].image;
      preview.querySelector('figcaption').textContent = scene.keyframes[index].stamp;
      viewer.select(chosen);
    };
  });
}

function fillReport() {
  const scene = JSON.parse(document.getElementById('scene').textContent);
  const viewer = new Viewer(document.getElementById('cloud'), document.getElementById('overlay'));
  connectControls(viewer);
  connectThumbnails(viewer, scene);
  viewer.load(scene, false);
  let timer = 0;
  const draw = () => {
    clearTimeout(timer);
    timer = setTimeout(() => drawViews(scene), 100);
  };
  new ResizeObserver(draw).observe(document.querySelector('.views'));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
}

try {
  fillReport();
} catch (error) {
  showFault(error);
}
