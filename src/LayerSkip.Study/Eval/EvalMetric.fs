namespace LayerSkip

/// One number of a result.
type EvalMetric = {
    /// As fields of JSON and columns of tables have it: "acc_norm".
    Name: string
    Value: float
    /// None: of this number there is none.
    StandardError: float option
    /// 95 % confidence.
    Interval: (float * float) option
}

/// Numbers of results, with what is uncertain about them.
[<RequireQualifiedAccess>]
module EvalMetric =
    let ofValue (name: string) (value: float) : EvalMetric = {
        Name = name
        Value = value
        StandardError = None
        Interval = None
    }

    // The 97.5 % quantile of the standard normal law.
    let private quantile = 1.959963984540054

    /// A share of successes, `count` of `total`: standard error as lm-evaluation-harness has it, of the sample
    /// (sqrt(p (1 - p) / (n - 1))), and Wilson's interval, which stays within 0 and 1.
    let share (name: string) (count: int) (total: int) : EvalMetric =
        let n = float total
        let p = float count / n
        let z2 = quantile * quantile
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n)
        let half = quantile / (1.0 + z2 / n) * sqrt (p * (1.0 - p) / n + z2 / (4.0 * n * n))

        {
            Name = name
            Value = p
            StandardError =
                if total > 1 then
                    Some(sqrt (p * (1.0 - p) / (n - 1.0)))
                else
                    None
            Interval = Some(max 0.0 (middle - half), min 1.0 (middle + half))
        }

    /// The mean of numbers, with the standard error of the sample and the normal interval.
    let mean (name: string) (values: float list) : EvalMetric =
        let n = float values.Length
        let mean = List.average values

        let error =
            if values.Length < 2 then
                None
            else
                Some(sqrt ((values |> List.sumBy (fun v -> (v - mean) ** 2.0)) / (n - 1.0) / n))

        {
            Name = name
            Value = mean
            StandardError = error
            Interval = error |> Option.map (fun e -> mean - quantile * e, mean + quantile * e)
        }

    /// A ratio of sums over items, as loss to tokens, with the standard error of the ratio estimator: items vary, not tokens.
    let ratio (name: string) (parts: (float * float) list) : EvalMetric =
        let above, below = List.sumBy fst parts, List.sumBy snd parts
        let value = above / below
        let n = float parts.Length

        let error =
            if parts.Length < 2 then
                None
            else
                let squares = parts |> List.sumBy (fun (a, b) -> (a - value * b) ** 2.0)
                Some(sqrt (squares * n / (n - 1.0)) / below)

        {
            Name = name
            Value = value
            StandardError = error
            Interval = error |> Option.map (fun e -> value - quantile * e, value + quantile * e)
        }
