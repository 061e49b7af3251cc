// SPDX-License-Identifier: Apache-2.0
// Draws a coloured cloud with WebGL, and path and cameras above it on a canvas.
'use strict';

const VERTEX = `
attribute vec3 place; attribute vec3 color; attribute float confidence;
uniform mat4 clipFromMap; uniform vec3 low; uniform vec3 extent; uniform vec2 heights;
uniform float pixels; uniform float ceiling; uniform int colouring;
varying vec3 shade;
vec3 ramp(float t) {  // dark blue, teal, yellow: ordered by lightness
  vec3 a = vec3(.10, .12, .42), b = vec3(.13, .60, .58), c = vec3(.98, .90, .35);
  return t < .5 ? mix(a, b, 2. * t) : mix(b, c, 2. * t - 1.);
}
void main() {
  vec3 point = low + extent * place;
  gl_Position = clipFromMap * vec4(point, 1.);
  gl_PointSize = clamp(pixels / gl_Position.w, 1., 48.);
  if (point.z > ceiling) gl_Position = vec4(2., 2., 2., 1.);
  shade = color;
  if (colouring == 1) shade = ramp(confidence);
  if (colouring == 2) shade = ramp(clamp((point.z - heights.x) / (heights.y - heights.x), 0., 1.));
}`;
const FRAGMENT = `
precision mediump float; varying vec3 shade;
void main() { gl_FragColor = vec4(shade, 1.); }`;

// Vectors are arrays of three; matrices of four rows are flat, row by row.
const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const along = (a, s, b) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const times = (a, b) => Array.from({length: 16}, (_, i) => {
  const row = 4 * Math.floor(i / 4), column = i % 4;
  return a[row] * b[column] + a[row + 1] * b[column + 4] + a[row + 2] * b[column + 8]
    + a[row + 3] * b[column + 12];
});
const project = (m, p) => {
  const at = i => m[i] * p[0] + m[i + 1] * p[1] + m[i + 2] * p[2] + m[i + 3];
  return [at(0), at(4), at(8), at(12)];
};
const axesView = (right, up, back, eye) => [
  ...right, -dot(right, eye), ...up, -dot(up, eye), ...back, -dot(back, eye), 0, 0, 0, 1];

const CAMERA_COLOR = '#ffd34d';

const bytes = text => Uint8Array.from(atob(text), one => one.charCodeAt(0));

function decodeCloud(points) {
  return {count: points.count, low: points.low, extent: points.step.map(one => one * 65535),
    places: bytes(points.places), colors: bytes(points.colors),
    confidence: bytes(points.confidence)};
}

// One WebGL context with one cloud.
class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    const gl = this.gl = canvas.getContext('webgl', {antialias: false, preserveDrawingBuffer: true});
    if (!gl) throw new Error('This browser has no WebGL: the points cannot be drawn.');
    const program = this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS))
      throw new Error('The points cannot be drawn: ' + gl.getProgramInfoLog(program));
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    this.count = 0;
    this.buffers = {};
  }

  load(cloud) {
    const gl = this.gl;
    this.count = cloud.count;
    this.low = cloud.low;
    this.extent = cloud.extent;
    for (const [name, type, size] of [['place', gl.UNSIGNED_SHORT, 3],
                                      ['color', gl.UNSIGNED_BYTE, 3],
                                      ['confidence', gl.UNSIGNED_BYTE, 1]]) {
      this.buffers[name] = this.buffers[name] || gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, cloud[{place: 'places', color: 'colors',
        confidence: 'confidence'}[name]], gl.STATIC_DRAW);
      const index = gl.getAttribLocation(this.program, name);
      gl.enableVertexAttribArray(index);
      gl.vertexAttribPointer(index, size, type, true, 0, 0);
    }
  }

  draw(matrix, pixels, heights, ceiling, colouring, background) {
    const gl = this.gl, at = name => gl.getUniformLocation(this.program, name);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(...background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!this.count) return;
    const columns = Array.from({length: 16}, (_, i) => matrix[4 * (i % 4) + Math.floor(i / 4)]);
    gl.uniformMatrix4fv(at('clipFromMap'), false, columns);
    gl.uniform3fv(at('low'), this.low);
    gl.uniform3fv(at('extent'), this.extent);
    gl.uniform2fv(at('heights'), heights);
    gl.uniform1f(at('pixels'), pixels);
    gl.uniform1f(at('ceiling'), ceiling);
    gl.uniform1i(at('colouring'), colouring);
    gl.drawArrays(gl.POINTS, 0, this.count);
  }

  release() {
    const extension = this.gl.getExtension('WEBGL_lose_context');
    if (extension) extension.loseContext();
  }
}

function colorOf(variable) {
  const probe = document.createElement('span');
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const numbers = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3);
  probe.remove();
  return numbers.map(one => Number(one) / 255);
}

function pathColor(share) {  // as the gradient of the style sheet
  const stops = [[43, 111, 214], [194, 64, 143], [255, 154, 31]];
  const at = Math.min(share, 1) * 2, index = Math.min(Math.floor(at), 1);
  const mixed = stops[index].map((one, i) => one + (at - index) * (stops[index + 1][i] - one));
  return `rgb(${mixed.map(Math.round).join()})`;
}

// Draws a path [n][3] in the colours of time; `seen` maps a point to pixels, or to null.
function drawPath(context, path, fragments, seen, width, halo) {
  const points = path.map(seen);
  const strokes = Math.min(48, Math.max(points.length - 1, 1));
  for (const [color, wide] of [[() => halo, width + 2.5], [pathColor, width]]) {
    context.lineWidth = wide;
    for (let stroke = 0; stroke < strokes; stroke++) {
      const first = Math.floor(stroke * (points.length - 1) / strokes);
      const last = Math.floor((stroke + 1) * (points.length - 1) / strokes);
      context.strokeStyle = color((stroke + .5) / strokes);
      context.beginPath();
      for (let i = first; i < last; i++) {
        if (!points[i] || !points[i + 1] || fragments[i] !== fragments[i + 1]) continue;
        context.moveTo(...points[i]);
        context.lineTo(...points[i + 1]);
      }
      context.stroke();
    }
  }
  for (const [index, share] of [[0, 0], [points.length - 1, 1]])
    drawDot(context, points[index], pathColor(share), width, halo);
}

function drawDot(context, point, color, width, halo) {
  if (!point) return;
  context.fillStyle = color;
  context.strokeStyle = halo;
  context.lineWidth = 2;
  context.beginPath();
  context.arc(...point, width + 2.5, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
}

// Draws the path of a scene, or the places of its cameras if they have no order.
function drawCameras(context, scene, seen, width, halo) {
  if (scene.is_path) drawPath(context, scene.path, scene.fragments, seen, width, halo);
  else for (const place of scene.path)
    drawDot(context, seen(place), CAMERA_COLOR, .5 * width, halo);
}

function fitCanvas(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2), box = canvas.getBoundingClientRect();
  const width = Math.max(1, Math.round(box.width * ratio));
  const height = Math.max(1, Math.round(box.height * ratio));
  if (canvas.width !== width || canvas.height !== height)
    [canvas.width, canvas.height] = [width, height];
  return ratio;
}

// The cloud that can be orbited, with what is drawn above it.
class Viewer {
  constructor(canvas, overlay) {
    this.canvas = canvas;
    this.overlay = overlay;
    this.painter = new Painter(canvas);
    this.scene = null;
    this.state = {colouring: 0, size: 0, cut: true, cameras: true, selected: -1};
    this.images = [];
    this.pointers = new Map();
    this.waiting = false;
    this.listen();
  }

  load(scene, keepView) {
    this.scene = scene;
    this.painter.load(decodeCloud(scene.points));
    this.images = scene.keyframes.map(one => {
      const image = new Image();
      image.onload = () => this.redraw();
      image.src = one.image;
      return image;
    });
    if (keepView) this.redraw();
    else this.reset();
  }

  reset() {
    const {low, high} = this.scene;
    const top = this.scene.ceiling === null ? high[2] : Math.min(high[2], this.scene.ceiling);
    const corner = [high[0], high[1], Math.max(top, low[2])];
    this.radius = Math.max(.5 * Math.hypot(...minus(corner, low)), 1e-6);
    this.target = along(low, .5, minus(corner, low));
    this.azimuth = -60 * Math.PI / 180;
    this.elevation = 42 * Math.PI / 180;
    // A ball touches a view of 45 degrees from 1 / sin(22.5 degrees) = 2.61 radii away.
    this.distance = 2.65 * this.radius;
    this.redraw();
  }

  select(index) {
    this.state.selected = index;
    this.redraw();
  }

  set(change) {
    Object.assign(this.state, change);
    this.redraw();
  }

  redraw() {
    if (this.waiting || !this.scene) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  axes() {
    const [ca, sa] = [Math.cos(this.azimuth), Math.sin(this.azimuth)];
    const [ce, se] = [Math.cos(this.elevation), Math.sin(this.elevation)];
    return {right: [-sa, ca, 0], up: [-se * ca, -se * sa, ce], back: [ce * ca, ce * sa, se]};
  }

  matrix() {
    const {right, up, back} = this.axes(), eye = along(this.target, this.distance, back);
    const aspect = this.canvas.width / this.canvas.height;
    // The field of view is 45 degrees along the shorter side.
    const focal = 1 / Math.tan(Math.PI / 8);
    const near = this.distance / 200, far = this.distance + 20 * this.radius;
    const projection = [focal / Math.max(aspect, 1), 0, 0, 0, 0, focal * Math.min(aspect, 1), 0, 0,
      0, 0, (near + far) / (near - far), 2 * near * far / (near - far), 0, 0, -1, 0];
    this.focal = .5 * this.canvas.height * focal * Math.min(aspect, 1);
    return times(projection, axesView(right, up, back, eye));
  }

  draw() {
    const ratio = fitCanvas(this.canvas);
    fitCanvas(this.overlay);
    const {scene, state} = this, matrix = this.matrix();
    const ceiling = state.cut && scene.ceiling !== null ? scene.ceiling : 1e30;
    const heights = [scene.low[2], Math.max(Math.min(scene.high[2], ceiling), scene.low[2] + 1e-6)];
    this.painter.draw(matrix, scene.size * this.focal * 2 ** state.size, heights, ceiling,
      state.colouring, colorOf('--scene'));
    const context = this.overlay.getContext('2d'), {width, height} = this.overlay;
    context.clearRect(0, 0, width, height);
    if (!state.cameras) return;
    const seen = point => {
      const [x, y, , w] = project(matrix, point);
      return w > 1e-3 * this.radius ? [width * (.5 + .5 * x / w), height * (.5 - .5 * y / w)] : null;
    };
    context.lineCap = context.lineJoin = 'round';
    for (const ends of scene.loops) this.drawLine(context, ends.map(seen), '#12a150', 2.5 * ratio);
    context.globalAlpha = .55;
    scene.keyframes.forEach((one, index) => {
      if (index !== state.selected) this.drawCamera(context, one, seen, .03, ratio, null);
    });
    context.globalAlpha = 1;
    drawCameras(context, scene, seen, 2.5 * ratio, 'rgba(0,0,0,.6)');
    const chosen = scene.keyframes[state.selected];
    if (chosen) this.drawCamera(context, chosen, seen, .14, 2.2 * ratio,
      this.images[state.selected]);
    if (scene.camera) this.drawCamera(context, scene.camera, seen, .1, 2.2 * ratio, null);
  }

  drawLine(context, points, color, width) {
    if (points.some(one => !one)) return;
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points.slice(1)) context.lineTo(...point);
    context.stroke();
  }

  // The pyramid that a camera sees up to `depth` times the radius, with its image at the end.
  drawCamera(context, keyframe, seen, depth, width, image) {
    const [row0, row1, row2] = keyframe.pose, [across, down] = keyframe.half;
    const z = depth * this.radius;
    const place = (x, y, d) => [row0, row1, row2].map(r => r[0] * x + r[1] * y + r[2] * d + r[3]);
    const corner = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(
      ([i, j]) => seen(place(i * across * z, j * down * z, z)));
    const eye = seen(place(0, 0, 0));
    if (!eye || corner.some(one => !one)) return;
    if (image && image.complete && image.naturalWidth) {
      const [a, b, , d] = corner, {naturalWidth: w, naturalHeight: h} = image;
      context.save();
      context.globalAlpha = .9;
      context.setTransform((b[0] - a[0]) / w, (b[1] - a[1]) / w, (d[0] - a[0]) / h,
        (d[1] - a[1]) / h, ...a);
      context.drawImage(image, 0, 0);
      context.restore();
    }
    for (const [color, wide] of [['rgba(0,0,0,.55)', width + 1.6], [CAMERA_COLOR, width]]) {
      this.drawLine(context, [...corner, corner[0]], color, wide);
      for (const one of corner) this.drawLine(context, [eye, one], color, wide);
    }
  }

  turn(across, up) {
    this.azimuth -= across;
    this.elevation = Math.max(-1.5, Math.min(1.5, this.elevation + up));
    this.redraw();
  }

  move(across, down) {  // in pixels of the page
    const {right, up} = this.axes(), box = this.canvas.getBoundingClientRect();
    const scale = this.distance * 2 * Math.tan(Math.PI / 8) / Math.min(box.width, box.height);
    this.target = along(along(this.target, -across * scale, right), down * scale, up);
    this.redraw();
  }

  zoom(factor) {
    this.distance = Math.max(.02 * this.radius, Math.min(30 * this.radius, this.distance * factor));
    this.redraw();
  }

  listen() {
    const canvas = this.canvas, pointers = this.pointers;
    canvas.addEventListener('contextmenu', event => event.preventDefault());
    canvas.addEventListener('pointerdown', event => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const name of ['pointerup', 'pointercancel'])
      canvas.addEventListener(name, event => pointers.delete(event.pointerId));
    canvas.addEventListener('pointermove', event => {
      const before = pointers.get(event.pointerId);
      if (!before || !this.scene) return;
      const now = [event.clientX, event.clientY], dx = now[0] - before[0], dy = now[1] - before[1];
      const other = [...pointers].find(([id]) => id !== event.pointerId);
      if (other) {
        const span = at => Math.max(Math.hypot(at[0] - other[1][0], at[1] - other[1][1]), 1);
        this.zoom(span(before) / span(now));
        this.move(dx / 2, dy / 2);
      } else if (event.shiftKey || event.buttons & 6) this.move(dx, dy);
      else this.turn(dx * .008, dy * .008);
      pointers.set(event.pointerId, now);
    });
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      if (this.scene) this.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * .0025));
    }, {passive: false});
    canvas.addEventListener('dblclick', () => this.scene && this.reset());
    const step = .08, keys = {
      ArrowLeft: () => this.turn(step, 0), ArrowRight: () => this.turn(-step, 0),
      ArrowUp: () => this.turn(0, step), ArrowDown: () => this.turn(0, -step),
      '+': () => this.zoom(.9), '=': () => this.zoom(.9), '-': () => this.zoom(1.1),
      Home: () => this.reset()};
    canvas.addEventListener('keydown', event => {
      if (!keys[event.key] || !this.scene || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    new ResizeObserver(() => this.redraw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
  }
}

// Connects the controls of a page with a viewer.
function connectControls(viewer) {
  const element = name => document.getElementById(name);
  element('colouring').onchange = event => viewer.set({colouring: Number(event.target.value)});
  element('size').oninput = event => viewer.set({size: Number(event.target.value)});
  element('cut').onchange = event => viewer.set({cut: event.target.checked});
  element('cameras').onchange = event => viewer.set({cameras: event.target.checked});
  element('reset').onclick = () => viewer.scene && viewer.reset();
}

function showFault(error) {
  const fault = document.getElementById('fault');
  fault.textContent = error.message;
  fault.hidden = false;
}
