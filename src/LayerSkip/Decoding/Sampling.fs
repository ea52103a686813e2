namespace LayerSkip

open System

/// How the next token is chosen from logits.
[<RequireQualifiedAccess>]
type Sampling =
    /// The largest logit; of equal ones the lowest id.
    | Greedy
    /// Logits over the temperature, then the `topK` largest (0: all), then the fewest whose probabilities
    /// reach `topP`, then those at least `minP` times as probable as the most probable (0: all), then softmax: the order of the reference
    /// and of transformers. vLLM has min-p before the other two.
    | Filtered of temperature: float * topK: int * topP: float * minP: float

/// What the whole model says at each row: its token, or the law that its token is drawn from.
[<RequireQualifiedAccess>]
type Verdicts =
    | Tokens of int[]
    | Laws of float[][]

[<RequireQualifiedAccess>]
module Sampling =
    /// The temperature, k, p and least share of who names none: greedy, and filters that let every token through.
    let defaultTemperature, defaultTopK, defaultTopP, defaultMinP = 0.0, 0, 1.0, 0.0

    /// Temperature 0 is greedy, whatever the filters. Every number outside its range is an error (`OutOfRange`).
    let createWith
        (minP: float)
        (temperature: float)
        (topK: int)
        (topP: float)
        : Result<Sampling, LayerSkipError list> =
        let number (x: float) = x.ToString Globalization.CultureInfo.InvariantCulture

        let isWarm = Double.IsFinite temperature && temperature >= 0.0

        let faults =
            Check.inRange isWarm "temperature" (number temperature) "0 (greedy) or more"
            @ Check.inRange (topK >= 0) "top-k" (string topK) "0 (all) or more"
            @ Check.inRange (topP > 0.0 && topP <= 1.0) "top-p" (number topP) "above 0 and at most 1"
            @ Check.inRange (minP >= 0.0 && minP <= 1.0) "min-p" (number minP) "0 (all) to 1"

        let filtered = Sampling.Filtered(temperature, topK, topP, minP)
        Check.all faults (if temperature = 0.0 then Sampling.Greedy else filtered)

    /// `createWith`, without min-p.
    let create (temperature: float) (topK: int) (topP: float) : Result<Sampling, LayerSkipError list> =
        createWith defaultMinP temperature topK topP

    /// Probabilities of logits of at least `least`, over a temperature.
    let private tempered (temperature: float) (least: float) (logits: float[]) : float[] =
        let largest = Array.max logits
        let law = Array.zeroCreate logits.Length
        let mutable total = 0.0

        for id in 0 .. logits.Length - 1 do
            if logits[id] >= least then
                // Shifted before it is divided: however small the temperature, the largest is 0 and no other is NaN.
                let weight = exp ((logits[id] - largest) / temperature)
                law[id] <- weight
                total <- total + weight

        for id in 0 .. law.Length - 1 do
            law[id] <- law[id] / total

        law

    /// Probabilities of logits, in float64; -infinity has none.
    let softmax (logits: float[]) : float[] = tempered 1.0 Double.NegativeInfinity logits

    /// Drops all but the most probable tokens whose mass reaches p; of equally probable ones the first stay.
    let private topP p (probabilities: float[]) =
        if p >= 1.0 then
            probabilities
        else
            // Those that are less probable have less than 1 - p together, so the mass is reached before them.
            let floor =
                if p < 0.999 then
                    (1.0 - p) / (2.0 * float probabilities.Length)
                else
                    0.0
            let kept = ResizeArray<int>()
            let mass = ref 0.0

            TopK.descending floor probabilities (fun id ->
                let isKept = mass.Value < p

                if isKept then
                    kept.Add id
                    mass.Value <- mass.Value + probabilities[id]

                isKept)

            let filtered = Array.zeroCreate probabilities.Length

            for id in kept do
                filtered[id] <- probabilities[id] / mass.Value

            filtered

    /// Drops what is less than `share` times as probable as the most probable (Nguyen et al. 2024, arXiv 2407.01082).
    let private minP share (probabilities: float[]) =
        if share = 0.0 then
            probabilities
        else
            let least = share * Array.max probabilities
            let kept = probabilities |> Array.map (fun p -> if p >= least then p else 0.0)
            let mass = Array.sum kept
            kept |> Array.map (fun p -> p / mass)

    /// The law that a token is drawn from: probabilities over the vocabulary. As the temperature goes to 0, it goes to
    /// equal shares of the largest logits.
    let law (sampling: Sampling) (logits: float[]) : float[] =
        match sampling with
        | Sampling.Greedy ->
            let best = Array.IndexOf(logits, Array.max logits)
            Array.init logits.Length (fun id -> if id = best then 1.0 else 0.0)
        | Sampling.Filtered(temperature, k, p, share) ->
            // Those equal to the k-th largest stay.
            let least =
                if k = 0 || k >= logits.Length then
                    Double.NegativeInfinity
                else
                    TopK.largest k logits

            tempered temperature least logits |> topP p |> minP share

    /// The entropy of a law, in nats.
    let entropy (law: float[]) : float =
        law |> Array.sumBy (fun share -> if share > 0.0 then -share * log share else 0.0)

    /// The token that a uniform number in [0, 1) picks: never one of probability 0.
    let pick (law: float[]) (uniform: float) : int =
        let rec go id mass last =
            if id = law.Length then
                last
            else
                let mass = mass + law[id]

                if law[id] > 0.0 && uniform < mass then
                    id
                else
                    go (id + 1) mass (if law[id] > 0.0 then id else last)

        // Rounding may leave the mass just under 1: the last token with any probability stands for the rest.
        go 0 0.0 0

    /// What remains to draw from when a draft is refused: max(0, p - q), normalised (Leviathan et al. 2023, section 2.3);
    /// p where nothing remains.
    let residual (p: float[]) (q: float[]) : float[] =
        let difference = Array.map2 (fun p q -> max 0.0 (p - q)) p q
        let total = Array.sum difference

        // p = q up to rounding: the refusal itself was rounding, and p is the law to keep.
        if total <= 1e-12 then
            p
        else
            difference |> Array.map (fun d -> d / total)

    /// Reads logits as verdicts, one a row.
    let verdicts (sampling: Sampling) (logits: Logits) : Verdicts =
        match sampling with
        | Sampling.Greedy when Logits.rows logits = 0 -> Verdicts.Tokens [||]
        | Sampling.Filtered _ when Logits.rows logits = 0 -> Verdicts.Laws [||]
        | Sampling.Greedy -> Verdicts.Tokens(Logits.argmax logits)
        | Sampling.Filtered _ -> Verdicts.Laws(Logits.toFloats logits |> Array.map (law sampling))
