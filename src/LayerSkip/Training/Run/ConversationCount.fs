namespace LayerSkip

open System.IO

/// What the conversations come to that a run learns from.
type ConversationCount = {
    Conversations: int
    /// Sequences that they became: more than one of a conversation whose template tells earlier turns otherwise later on.
    Samples: int
    /// Conversations of which something lies beyond the length of a sample.
    Cut: int
    /// Ids of the assistant's answers, and those of them within a sample's length.
    Wanted: int64
    Learned: int64
}

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal ConversationCount =
    /// No conversation.
    let zero: ConversationCount = { Conversations = 0; Samples = 0; Cut = 0; Wanted = 0L; Learned = 0L }

    /// Of one conversation, of whose samples as entries no more than `length` are read.
    let ofSamples (length: int) (samples: int[] list) : ConversationCount =
        // The first id has nothing before it that could predict it.
        let learned most (entries: int[]) =
            seq { 1 .. min most entries.Length - 1 }
            |> Seq.filter (fun i -> entries[i] >= 0)
            |> Seq.length
            |> int64

        {
            Conversations = 1
            Samples = samples.Length
            Cut =
                if samples |> List.exists (fun entries -> entries.Length > length) then
                    1
                else
                    0
            Wanted = samples |> List.sumBy (learned System.Int32.MaxValue)
            Learned = samples |> List.sumBy (learned length)
        }

    let plus (a: ConversationCount) (b: ConversationCount) : ConversationCount = {
        Conversations = a.Conversations + b.Conversations
        Samples = a.Samples + b.Samples
        Cut = a.Cut + b.Cut
        Wanted = a.Wanted + b.Wanted
        Learned = a.Learned + b.Learned
    }

    let private fields: JsonField<ConversationCount> list = [
        JsonField.whole "conversations" _.Conversations (fun x it -> { it with Conversations = x })
        JsonField.whole "samples" _.Samples (fun x it -> { it with Samples = x })
        JsonField.whole "cut" _.Cut (fun x it -> { it with Cut = x })
        JsonField.long "wanted_tokens" _.Wanted (fun x it -> { it with Wanted = x })
        JsonField.long "learned_tokens" _.Learned (fun x it -> { it with Learned = x })
    ]

    /// Writes the count into a run's folder; one of nothing is no file.
    let save (path: string) (count: ConversationCount) : Result<unit, LayerSkipError list> =
        if count.Conversations = 0 then
            File.Delete path
            Ok()
        else
            AtomicFile.write path (fun file ->
                use json = new System.Text.Json.Utf8JsonWriter(file)
                json.WriteStartObject()
                JsonField.write fields json count
                json.WriteEndObject())

    /// The count in a run's folder; None where the run learns from no conversation.
    let load (path: string) : Result<ConversationCount option, LayerSkipError list> =
        if not (File.Exists path) then
            Ok None
        else
            Json.load path "start the run again" (fun root ->
                let json = JsonReader(path, root)
                let count = JsonField.read fields json zero
                Check.all json.Faults (Some count))
