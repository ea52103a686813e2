namespace LayerSkip

open System

/// How far a text covers another: shares, 0 to 1.
[<Struct>]
type Overlap = {
    /// Of the prediction's units, those that the reference has.
    Precision: float
    /// Of the reference's, those that the prediction has.
    Recall: float
} with

    /// The harmonic mean of both; 0 where both are.
    member this.F1 =
        match this.Precision + this.Recall with
        | 0.0 -> 0.0
        | sum -> 2.0 * this.Precision * this.Recall / sum

/// ROUGE (Lin 2004, "ROUGE: a package for automatic evaluation of summaries"), as Google's `rouge_score` defines it without its
/// stemmer: lower-case runs of a-z and 0-9 are the tokens.
[<RequireQualifiedAccess>]
module Rouge =
    /// The tokens of a text.
    let tokens (text: string) : string[] =
        let isToken character = Char.IsAsciiLetterLower character || Char.IsAsciiDigit character

        text.ToLowerInvariant()
        |> String.map (fun character -> if isToken character then character else ' ')
        |> _.Split(' ', StringSplitOptions.RemoveEmptyEntries)

    /// So many units in common, of so many of each text.
    let private overlap (common: int) (reference: int) (prediction: int) : Overlap = {
        Precision = float common / float (max 1 prediction)
        Recall = float common / float (max 1 reference)
    }

    let private counted (items: 'T seq) = items |> Seq.countBy id |> Map.ofSeq
    let private count item counts = Map.tryFind item counts |> Option.defaultValue 0

    /// ROUGE-N: runs of `n` tokens, each as often as both have it (section 2).
    let ngrams (n: int) (reference: string) (prediction: string) : Overlap =
        let grams text = tokens text |> Array.windowed n |> Seq.map List.ofArray |> counted
        let reference, prediction = grams reference, grams prediction
        let common = reference |> Seq.sumBy (fun gram -> min gram.Value (count gram.Key prediction))
        overlap common (Seq.sum reference.Values) (Seq.sum prediction.Values)

    /// At [i, j] the length of the longest common subsequence of the first i and the first j tokens.
    let private lengths (a: string[]) (b: string[]) : int[,] =
        let table = Array2D.zeroCreate (a.Length + 1) (b.Length + 1)

        for i in 1 .. a.Length do
            for j in 1 .. b.Length do
                table[i, j] <-
                    if a[i - 1] = b[j - 1] then
                        table[i - 1, j - 1] + 1
                    else
                        max table[i - 1, j] table[i, j - 1]

        table

    /// ROUGE-L: the longest common subsequence of tokens (section 3.1).
    let longest (reference: string) (prediction: string) : Overlap =
        let reference, prediction = tokens reference, tokens prediction
        let common = (lengths reference prediction)[reference.Length, prediction.Length]
        overlap common reference.Length prediction.Length

    /// The places in `a` of one longest common subsequence. Of several it is the one that the definition reads off, from the
    /// ends: it leaves a token of `b` only where that keeps more than to leave one of `a`.
    let private places (a: string[]) (b: string[]) : Set<int> =
        let table = lengths a b

        let rec back i j found =
            if i = 0 || j = 0 then
                found
            elif a[i - 1] = b[j - 1] then
                back (i - 1) (j - 1) (Set.add (i - 1) found)
            elif table[i, j - 1] > table[i - 1, j] then
                back i (j - 1) found
            else
                back (i - 1) j found

        back a.Length b.Length Set.empty

    /// ROUGE-Lsum: lines are sentences; each of the reference's is covered by the union of its longest common subsequences
    /// with all of the prediction's (section 3.2), and a token counts as often as both texts have it.
    let longestBySentence (reference: string) (prediction: string) : Overlap =
        let sentences (text: string) = text.Split '\n' |> Array.map tokens
        let reference, prediction = sentences reference, sentences prediction

        let common =
            reference
            |> Seq.collect (fun sentence ->
                let covered = prediction |> Seq.map (places sentence) |> Set.unionMany
                covered |> Seq.map (fun place -> sentence[place]))
            |> counted

        let every = Seq.concat prediction |> counted
        let hits = common |> Seq.sumBy (fun token -> min token.Value (count token.Key every))
        overlap hits (Array.sumBy Array.length reference) (Array.sumBy Array.length prediction)
