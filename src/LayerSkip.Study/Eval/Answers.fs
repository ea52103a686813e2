namespace LayerSkip

open System
open System.Text.RegularExpressions

/// What is read out of a generated text, and how it is compared.
[<RequireQualifiedAccess>]
module Answers =
    // Texts are of any length, and some of a model's: none may take more than its length.
    let private pattern text = Regex(text, RegexOptions.CultureInvariant ||| RegexOptions.NonBacktracking)

    let private strictPattern = pattern @"#### (-?[0-9.,]+)"
    let private flexiblePattern = pattern @"-?[$0-9.,]{2,}|-?[0-9]+"

    /// The number behind the first "#### ": lm-evaluation-harness's `strict-match` of GSM8K.
    let strict (text: string) : string option =
        match strictPattern.Match text with
        | found when found.Success -> Some found.Groups[1].Value
        | _ -> None

    /// The last number of the text, whatever is around it: its `flexible-extract`.
    let flexible (text: string) : string option =
        flexiblePattern.Matches text |> Seq.tryLast |> Option.map _.Value

    /// A number without what does not count in a comparison: commas, dollars, a point at its end; and, of other writings of a
    /// whole number ("576.0"), the zeros behind the point.
    let number (text: string) : string =
        let bare = text.Replace(",", "").Replace("$", "").Trim().TrimEnd '.'

        match bare.Split '.' with
        | [| whole; zeros |] when whole <> "" && zeros <> "" && Seq.forall ((=) '0') zeros -> whole
        | _ -> bare

    /// Whether what was read out of a text is the number that is wanted.
    let isNumber (wanted: string) (found: string option) : bool =
        found |> Option.exists (fun found -> number found = number wanted)

    /// Whether two texts are the same but for white space around them.
    let isSame (reference: string) (prediction: string) : bool = reference.Trim() = prediction.Trim()

    /// How many characters (UTF-16 units) must be put in, taken out or replaced to make one text of the other (Levenshtein
    /// 1966); what the reference implementation reports as "exact_match".
    let editDistance (a: string) (b: string) : int =
        let mutable above = Array.init (b.Length + 1) id
        let mutable row = Array.zeroCreate (b.Length + 1)

        for i in 1 .. a.Length do
            row[0] <- i

            for j in 1 .. b.Length do
                let replaced = above[j - 1] + (if a[i - 1] = b[j - 1] then 0 else 1)
                row[j] <- min replaced (1 + min above[j] row[j - 1])

            let finished = row
            row <- above
            above <- finished

        above[b.Length]

    /// pass@k without bias: the chance that of `k` samples drawn from `samples`, `passed` of which pass, one passes at least
    /// (Chen et al. 2021, "Evaluating large language models trained on code", equation 1); 1 <= k <= samples.
    let passAt (k: int) (samples: int) (passed: int) : float =
        // 1 - C(n - c, k) / C(n, k), without its large numbers.
        if samples - passed < k then
            1.0
        else
            1.0
            - Seq.fold
                (fun share i -> share * (1.0 - float k / float i))
                1.0
                (seq { samples - passed + 1 .. samples })
