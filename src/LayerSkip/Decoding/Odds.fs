namespace LayerSkip

open System

/// A chance that is learned as it goes: the logistic function of a weighted sum of features. Immutable.
[<Struct; NoComparison>]
type internal Odds = { Weights: float[] }

[<RequireQualifiedAccess>]
module internal Odds =
    /// A share as the number that logistic models take, within [-6, 6].
    let logit (share: float) : float =
        let share = Math.Clamp(share, 1e-12, 1.0 - 1e-12)
        Math.Clamp(log (share / (1.0 - share)), -6.0, 6.0)

    /// How many of drafts in a row are expected to be kept, each with its chance where those before it are.
    let expected (drafts: int) (chance: int -> float) : float =
        let mutable sum, product = 0.0, 1.0

        for place in 0 .. drafts - 1 do
            product <- product * chance place
            sum <- sum + product

        sum

    let chance (features: float[]) (odds: Odds) : float =
        let mutable sum = 0.0

        for index in 0 .. features.Length - 1 do
            sum <- sum + odds.Weights[index] * features[index]

        1.0 / (1.0 + exp -sum)

    /// A step of stochastic gradient descent on the log loss; long features take a shorter one.
    let learn (rate: float) (features: float[]) (came: bool) (odds: Odds) : Odds =
        let error = (if came then 1.0 else 0.0) - chance features odds
        let length = features |> Array.sumBy (fun feature -> feature * feature)
        let step = rate * error / max 1.0 (length / 4.0)

        {
            Weights = Array.map2 (fun weight feature -> weight + step * feature) odds.Weights features
        }
