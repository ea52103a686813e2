namespace LayerSkip

open System
open System.Text

/// A possible answer as the model reads it: how probable is `Continuation` after `Context`?
type internal ChoicePrompt = { Context: string; Continuation: string }

/// How questions become prompts: lm-evaluation-harness's templates (its task definitions, as of 2024; see docs/evaluation.md).
[<NoEquality; NoComparison>]
type internal ChoiceTemplate = {
    /// A prompt for each option, in their order.
    Prompts: ChoiceQuestion -> ChoicePrompt list
    /// Whether the options are the continuations: their lengths then normalise. Else they stand in the contexts.
    Continues: bool
}

[<RequireQualifiedAccess>]
module internal ChoiceTemplate =
    /// The question in some words, then a space and an option.
    let after (context: string -> string) : ChoiceTemplate = {
        Prompts =
            fun asked ->
                asked.Options
                |> List.map (fun option -> { Context = context asked.Question; Continuation = $" {option}" })
        Continues = true
    }

    /// "Question: ..", "Answer:" on the next line.
    let questionAnswer: ChoiceTemplate = after (fun question -> $"Question: {question}\nAnswer:")

    /// A sentence with a gap `_`: each option in it makes a context, and what follows the gap is scored (Trinh and Le,
    /// arXiv 1806.02847, call it partial evaluation).
    let gap: ChoiceTemplate = {
        Prompts =
            fun asked ->
                let at = asked.Question.IndexOf '_'
                let rest = asked.Question[at + 1 ..].Trim()

                asked.Options
                |> List.map (fun option -> {
                    Context = asked.Question[.. at - 1] + option
                    Continuation = $" {rest}"
                })
        Continues = false
    }

    /// A question with its right answer: what stands before another one as an example.
    let example (template: ChoiceTemplate) (asked: ChoiceQuestion) : string =
        let prompt = (template.Prompts asked)[asked.Answer]
        prompt.Context + prompt.Continuation

    /// Examples before each prompt, an empty line after each.
    let withExamples (examples: string list) (prompt: ChoicePrompt) : ChoicePrompt =
        let before = examples |> List.map (fun example -> example + "\n\n") |> String.concat ""
        { prompt with Context = before + prompt.Context }

    /// UTF-8 bytes of an option.
    let bytes (option: string) : int = Encoding.UTF8.GetByteCount option

/// A prompt in ids: the last `Scored` of them are the continuation's.
type internal ChoiceIds = { Ids: int[]; Scored: int; IsCut: bool }

[<RequireQualifiedAccess>]
module internal ChoiceIds =
    /// As lm-evaluation-harness encodes: context and continuation as one text, of which the context's own ids are taken
    /// away; white space at the context's end is the continuation's. Cut from the left to what the context of the model
    /// holds: one more than it reads at once, for the last is only predicted. None where the continuation alone is longer.
    let encode (encode: string -> int[]) (context: int) (prompt: ChoicePrompt) : ChoiceIds option =
        let trimmed = prompt.Context.TrimEnd()
        let whole = encode (prompt.Context + prompt.Continuation)
        let before = (encode trimmed).Length

        // A text begins with its first token given.
        let scored = whole.Length - max 1 (min before (whole.Length - 1))

        if scored > context || whole.Length < 2 then
            None
        else
            let kept = min whole.Length (context + 1)

            Some { Ids = whole[whole.Length - kept ..]; Scored = scored; IsCut = kept < whole.Length }

    /// How many ids all prompts begin with that none of them scores: they are read once. The row before the first scored
    /// id is read with it.
    let shared (prompts: ChoiceIds list) : int =
        let first = prompts.Head.Ids
        let most = prompts |> List.map (fun prompt -> prompt.Ids.Length - prompt.Scored - 1) |> List.min

        Seq.init most id
        |> Seq.takeWhile (fun at -> prompts |> List.forall (fun prompt -> prompt.Ids[at] = first[at]))
        |> Seq.length
