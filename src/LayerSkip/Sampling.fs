namespace LayerSkip

open System

/// How the next token is chosen from logits.
[<RequireQualifiedAccess>]
type Sampling =
    /// The largest logit; of equal ones the lowest id.
    | Greedy
    /// Logits over the temperature, then the `topK` largest (0: all), then the fewest whose probabilities
    /// reach `topP`, then softmax: the reference's order.
    | Filtered of temperature: float * topK: int * topP: float

/// What the whole model says at each row: its token, or the law that its token is drawn from.
[<RequireQualifiedAccess>]
type Verdicts =
    | Tokens of int[]
    | Laws of float[][]

[<RequireQualifiedAccess>]
module Sampling =
    /// Temperature 0 is greedy, whatever the filters.
    let create (temperature: float) (topK: int) (topP: float) : Result<Sampling, LayerSkipError list> =
        let number (x: float) = x.ToString Globalization.CultureInfo.InvariantCulture

        let faults = [
            if not (Double.IsFinite temperature && temperature >= 0.0) then
                LayerSkipError.OutOfRange("temperature", number temperature, "0 (greedy) or more")
            if topK < 0 then
                LayerSkipError.OutOfRange("top-k", string topK, "0 (all) or more")
            if not (topP > 0.0 && topP <= 1.0) then
                LayerSkipError.OutOfRange("top-p", number topP, "above 0 and at most 1")
        ]

        Check.all
            faults
            (if temperature = 0.0 then
                 Sampling.Greedy
             else
                 Sampling.Filtered(temperature, topK, topP))

    /// Probabilities of logits, in float64; -infinity has none.
    let softmax (logits: float[]) : float[] =
        let largest = Array.max logits
        let weights = logits |> Array.map (fun logit -> exp (logit - largest))
        let total = Array.sum weights
        weights |> Array.map (fun weight -> weight / total)

    /// Drops all but the k largest; those equal to the k-th stay.
    let private topK k (logits: float[]) =
        if k = 0 || k >= logits.Length then
            logits
        else
            let least = (Array.sortDescending logits)[k - 1]
            logits
            |> Array.map (fun logit -> if logit < least then Double.NegativeInfinity else logit)

    /// The ids of the most probable tokens whose mass reaches p, in order of probability, then of id.
    /// Sorting a whole vocabulary costs milliseconds, so only the probable part of it is.
    let rec private nucleus p (floor: float) (probabilities: float[]) =
        let ids = [|
            for id in 0 .. probabilities.Length - 1 do
                if probabilities[id] > floor then
                    id
        |]

        if floor > 0.0 && Array.sumBy (fun id -> probabilities[id]) ids < p then
            nucleus p (if floor > 1e-9 then floor * 1e-3 else 0.0) probabilities
        else
            let sorted = Array.sortBy (fun id -> struct (-probabilities[id], id)) ids
            let before = Array.scan (fun mass id -> mass + probabilities[id]) 0.0 sorted
            Array.zip sorted before[.. sorted.Length - 1]
            |> Array.takeWhile (fun (_, mass) -> mass < p)
            |> Array.map fst

    let private topP p (probabilities: float[]) =
        if p >= 1.0 then
            probabilities
        else
            let kept = nucleus p 1e-3 probabilities
            let total = kept |> Array.sumBy (fun id -> probabilities[id])
            let filtered = Array.zeroCreate probabilities.Length

            for id in kept do
                filtered[id] <- probabilities[id] / total

            filtered

    /// The law that a token is drawn from: probabilities over the vocabulary.
    let law (sampling: Sampling) (logits: float[]) : float[] =
        match sampling with
        | Sampling.Greedy ->
            let best = Array.IndexOf(logits, Array.max logits)
            Array.init logits.Length (fun id -> if id = best then 1.0 else 0.0)
        | Sampling.Filtered(temperature, k, p) ->
            logits |> Array.map (fun logit -> logit / temperature) |> topK k |> softmax |> topP p

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

    /// What remains to draw from when a draft is refused: max(0, p - q), normalised; p where nothing remains.
    let residual (p: float[]) (q: float[]) : float[] =
        let difference = Array.map2 (fun p q -> max 0.0 (p - q)) p q
        let total = Array.sum difference

        // p = q up to rounding: the refusal itself was rounding, and p is the law to keep.
        if total <= 1e-12 then
            p
        else
            difference |> Array.map (fun d -> d / total)

    /// Reads logits as verdicts, one a row.
    let internal judge (sampling: Sampling) (logits: Logits) : Verdicts =
        match sampling with
        | Sampling.Greedy -> Verdicts.Tokens(Logits.argmax logits)
        | Sampling.Filtered _ -> Verdicts.Laws(Logits.toFloats logits |> Array.map (law sampling))

    /// Reads logits [1; rows; vocabulary] as verdicts, one a row.
    let verdicts (sampling: Sampling) (logits: Tensor) : Verdicts = judge sampling (Logits.Tensor logits)
