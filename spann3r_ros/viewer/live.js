// SPDX-License-Identifier: Apache-2.0
// Asks the server twice a second for the camera and the counts, and for the map if it is another.

const PERIOD_MS = 500;

class LivePage {
  constructor() {
    const element = name => document.getElementById(name);
    this.status = element('state');
    this.image = element('selected');
    this.image.querySelector('img').alt = 'The newest image';
    this.viewer = new Viewer(element('cloud'), element('overlay'));
    connectControls(this.viewer);
    this.version = 0;
    this.touched = false;
    for (const kind of ['pointerdown', 'wheel', 'keydown'])
      element('cloud').addEventListener(kind, () => { this.touched = true; });
    element('reset').addEventListener('click', () => { this.touched = false; });
  }

  async run() {
    for (;;) {
      let ended = false;
      try {
        ended = await this.update();
      } catch (error) {
        this.status.textContent = 'The live view does not answer: has the run ended?';
      }
      if (ended) return;
      await new Promise(done => setTimeout(done, PERIOD_MS));
    }
  }

  async update() {
    const state = await this.ask(`state?have=${this.version}`), had = this.version;
    if (state.version !== this.version) {
      const scene = await this.ask('map');
      scene.camera = state.camera;
      // Until the user has chosen a view, it follows the size of the map.
      this.viewer.load(scene, this.touched && this.viewer.scene !== null);
      this.version = state.version;
    } else if (this.viewer.scene) {
      this.viewer.scene.camera = state.camera;
      this.viewer.redraw();
    }
    this.image.hidden = state.image === null;
    if (state.image !== null) this.image.querySelector('img').src = state.image;
    const points = this.viewer.scene && this.viewer.scene.points;
    const counts = state.counts.map(([name, value]) => `${name} ${value}`);
    if (points) counts.push(`points shown ${points.count.toLocaleString('en')}`);
    this.status.textContent = (state.ended ? 'The run has ended. ' : '')
      + (counts.join(' · ') || 'waiting for the map');
    return state.ended && state.version === had;
  }

  async ask(what) {
    const answer = await fetch(`/${what}`, {signal: AbortSignal.timeout(20000)});
    if (!answer.ok) throw new Error(`${what}: ${answer.status}`);
    return answer.json();
  }
}

try {
  new LivePage().run();
} catch (error) {
  showFault(error);
}
