//! How likely each load on a logarithmic scale is, in several variants: what a fit holds and Bayes' rule works on.

/// Loads that a grid holds.
pub const ROWS: usize = 96;
/// Logarithm of the ratio of neighbouring loads while little is known: the grid spans four orders of magnitude.
pub const STEP_COARSE: f64 = 0.10;
/// The same once the load is known well: the grid spans a factor of ten.
pub const STEP_FINE: f64 = 0.025;
/// Below this spread of the logarithm the fine grid is used.
pub const SPREAD_FINE: f64 = 0.25;
/// Logarithm of the smallest weight, relative to the largest: no evidence is so strong that none could speak against it.
const LOG_WEIGHT_MIN: f64 = -60.0;
/// Below this a weight is none, where weights are added up. Most of a grid is, and neither its logarithms nor its powers
/// need to be taken.
const LOG_WEIGHT_NONE: f64 = -58.0;

/// Weights of `ROWS` loads in `COLUMNS` variants each.
#[derive(Clone, Debug, PartialEq)]
pub struct LogGrid<const COLUMNS: usize> {
    /// Logarithm of the load in the first row.
    pub first: f64,
    /// Logarithm of the ratio of neighbouring loads.
    pub step: f64,
    /// Logarithms of weights, row by row; the largest is 0 once settled.
    pub log_weights: Vec<f64>,
    /// The weights, as of the last time it was settled: they are read many times in a decision.
    weights: Vec<f64>,
    /// Their sums over each row.
    rows: Vec<f64>,
}

impl<const COLUMNS: usize> LogGrid<COLUMNS> {
    /// These weights, as they are.
    pub fn new(first: f64, step: f64, log_weights: Vec<f64>) -> Self {
        let weights = vec![0.0; ROWS * COLUMNS];
        let mut grid = Self { first, step, log_weights, weights, rows: vec![0.0; ROWS] };
        grid.raise();
        grid
    }

    /// Logarithm of the load in a row.
    pub fn log_at(&self, row: usize) -> f64 {
        self.first + self.step * row as f64
    }

    /// Weights of each load's variants, once settled; the largest of all is 1.
    pub fn weights(&self) -> impl Iterator<Item = &[f64]> {
        self.weights.chunks_exact(COLUMNS)
    }

    /// Weights of the loads, over all variants, once settled.
    pub fn rows(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().copied()
    }

    /// Takes the weights from their logarithms.
    fn raise(&mut self) {
        for (weight, &log) in self.weights.iter_mut().zip(&self.log_weights) {
            *weight = if log < LOG_WEIGHT_NONE { 0.0 } else { log.exp() };
        }
        self.add_up();
    }

    fn add_up(&mut self) {
        for (row, weights) in self.rows.iter_mut().zip(self.weights.chunks_exact(COLUMNS)) {
            *row = weights.iter().sum();
        }
    }

    /// Mean and spread of the logarithm of the load, once settled.
    pub fn moments(&self) -> (f64, f64) {
        let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
        for (row, weight) in self.rows().enumerate() {
            let log = self.log_at(row);
            sum += weight;
            first += weight * log;
            second += weight * log * log;
        }
        let mean = first / sum;
        (mean, (second / sum - mean * mean).max(0.0).sqrt())
    }

    /// Takes other weights, row by row and of any scale.
    pub fn set(&mut self, weights: Vec<f64>) {
        self.weights = weights;
        let most = self.weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let least = LOG_WEIGHT_NONE.exp();
        for (weight, log) in self.weights.iter_mut().zip(&mut self.log_weights) {
            *weight /= most;
            *log = if *weight < least { LOG_WEIGHT_MIN } else { weight.ln() };
        }
        self.add_up();
        self.fit();
    }

    /// To be called when the logarithms have changed: scales them, and takes the weights from them.
    pub fn settle(&mut self) {
        let most = self.log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for weight in &mut self.log_weights {
            *weight = (*weight - most).max(LOG_WEIGHT_MIN);
        }
        self.raise();
        self.fit();
    }

    /// Moves or refines the grid when what is likely comes near its end or is known well.
    fn fit(&mut self) {
        let (mean, spread) = self.moments();
        let row = (mean - self.first) / self.step;
        let step = if spread < 0.6 * SPREAD_FINE {
            STEP_FINE
        } else if spread > SPREAD_FINE {
            STEP_COARSE
        } else {
            self.step
        };
        let near_end = row < ROWS as f64 * 0.2 || row > ROWS as f64 * 0.8;
        if near_end || (step - self.step).abs() > f64::EPSILON {
            self.resample(mean, step);
            self.raise();
        }
    }

    fn resample(&mut self, centre: f64, step: f64) {
        let first = centre - step * (ROWS as f64 - 1.0) / 2.0;
        let mut log_weights = vec![0.0; ROWS * COLUMNS];
        for row in 0..ROWS {
            let place = (first + step * row as f64 - self.first) / self.step;
            let inside = place.clamp(0.0, (ROWS - 1) as f64);
            let lower = (inside as usize).min(ROWS - 2);
            let part = inside - lower as f64;
            // Beyond the old grid the weight goes on falling.
            let outside = (place - inside).abs() * self.step / STEP_COARSE;
            for column in 0..COLUMNS {
                let at = |row: usize| self.log_weights[row * COLUMNS + column];
                log_weights[row * COLUMNS + column] =
                    at(lower) * (1.0 - part) + at(lower + 1) * part - outside;
            }
        }
        (self.first, self.step, self.log_weights) = (first, step, log_weights);
    }
}
