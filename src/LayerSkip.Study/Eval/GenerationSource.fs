namespace LayerSkip

/// A kind of questions whose answers are generated: how its file is read, and by which template it becomes a prompt.
[<NoEquality; NoComparison>]
type internal GenerationSource = {
    /// As `--task` names it.
    Name: string
    /// One sentence: what it measures on which files.
    About: string
    /// Texts that end an answer.
    Stops: string list
    /// The most tokens of an answer, where the options name none: what those who published the task took.
    MaxNewTokens: int
    /// Whether answers are programs, which are run.
    IsCode: bool
    /// Examples before each question, where the options name no number.
    Shots: int
    /// The questions of a file.
    Read: string -> Result<Question list, LayerSkipError list>
    /// Of a file's questions those that only serve as examples, and the others.
    Part: Question list -> Question list * Question list
}

/// What sources are made of.
[<RequireQualifiedAccess>]
module internal GenerationSource =
    /// Of no form yet; no example, and no text that ends an answer.
    let none: GenerationSource = {
        Name = ""
        About = ""
        Stops = []
        MaxNewTokens = 128
        IsCode = false
        Shots = 0
        Read = fun path -> Check.bad path "has no form"
        Part = fun questions -> [], questions
    }

    /// One of one turn.
    let question id category prompt scorer example : Question = {
        Item = { Id = id; Category = category; Turns = [ { Prompt = prompt; Scorer = scorer } ] }
        Example = example
    }
