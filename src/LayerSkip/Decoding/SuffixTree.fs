namespace LayerSkip

open System
open System.Collections.Generic

/// A set of contexts (texts that end somewhere) with the same occurrences, the longest of which is `Depth` long; the node above has
/// the longest that is shorter.
[<Struct; NoEquality; NoComparison>]
type internal SuffixNode = {
    mutable Depth: int
    mutable Parent: int
    /// Places where the context ends, and the latest of them.
    mutable Count: int
    mutable End: int
    /// What followed most often, of equals the latest; how often; and a node at or below that of the context and it.
    mutable Next: int
    mutable NextCount: int
    mutable NextNode: int
}

/// A context that occurred before: the node that has its places, and its length.
[<Struct>]
type internal SuffixPlace = { Node: int; Length: int }

/// Every context of some texts up to a length, read backwards, as a compressed trie with counts: the suffixes of a text are then the
/// nodes of one path, so that a token more is one walk of at most `longest` + 1 steps, in which the longest ending that occurred
/// before is where the walk leaves what was there. (A suffix automaton would tell the counts of a long repetition only after
/// a walk of its length; chains of hashed n-grams would visit every place of a frequent one.)
[<Sealed>]
type internal SuffixTree(longest: int, expected: int) =
    // One more than a match has: what followed the longest match is a context too.
    let deepest = longest + 1
    let mutable text: int[] = Array.zeroCreate (max 16 expected)
    let mutable count = 0
    let mutable nodes: SuffixNode[] = Array.zeroCreate (max 16 (expected + expected / 2))
    let mutable used = 1
    let children = Dictionary<int64, int>(max 16 (expected + expected / 2))
    // The nodes of the contexts that end at the last token, the shortest first, and those at the token before.
    let mutable path: int[] = Array.zeroCreate (deepest + 1)
    let mutable pathLength = 0
    let mutable before: int[] = Array.zeroCreate (deepest + 1)
    let mutable beforeLength = 0
    // Tokens since the beginning of the text under way.
    let mutable read = 0

    /// A child begins with this token; scrambled, as .NET's hash of 64 bits is the exclusive or of the halves.
    let key (node: int) (token: int) = ((int64 node <<< 32) ||| int64 (uint32 token)) * 0x9E3779B97F4A7C15L

    let add (node: SuffixNode) : int =
        if used = nodes.Length then
            Array.Resize(&nodes, 2 * used)

        nodes[used] <- node
        used <- used + 1
        used - 1

    /// How long two contexts are the same, given that they are up to `from`: at most `most`.
    let common (a: ReadOnlySpan<int>) (aEnd: int) (b: ReadOnlySpan<int>) (bEnd: int) (from: int) (most: int) =
        let mutable length = from

        while length < most && a[aEnd - length] = b[bEnd - length] do
            length <- length + 1

        length

    /// A node for the contexts of `child` up to `depth`, between it and its parent.
    let split (child: int) (depth: int) : int =
        let lower = nodes[child]
        let upper = add { lower with Depth = depth }
        children[key lower.Parent text[lower.End - nodes[lower.Parent].Depth]] <- upper
        children[key upper text[lower.End - depth]] <- child
        nodes[child].Parent <- upper

        // Where the lower one is among the endings of the text before this token, the upper one is too.
        let place = Array.IndexOf(before, child, 0, beforeLength)

        if place >= 0 then
            Array.Copy(before, place, before, place + 1, beforeLength - place)
            before[place] <- upper
            beforeLength <- beforeLength + 1

        upper

    let visit (node: int) =
        nodes[node].Count <- nodes[node].Count + 1
        nodes[node].End <- count - 1
        path[pathLength] <- node
        pathLength <- pathLength + 1

    /// Walks and makes the path of the contexts that end at the last token.
    let grow () =
        let last = count - 1
        let most = min deepest read
        let mutable node, depth = 0, 0

        while depth < most do
            let mutable child = 0

            if children.TryGetValue(key node text[last - depth], &child) then
                let below = min most nodes[child].Depth

                // The first token is the child's key.
                let length =
                    common (ReadOnlySpan text) last (ReadOnlySpan text) nodes[child].End (depth + 1) below

                node <-
                    (if length = nodes[child].Depth then
                         child
                     else
                         split child length)
                depth <- length
            else
                let leaf =
                    add {
                        Depth = most
                        Parent = node
                        Count = 0
                        End = last
                        Next = 0
                        NextCount = 0
                        NextNode = 0
                    }

                children[key node text[last - depth]] <- leaf
                node <- leaf
                depth <- most

            visit node

    /// Tells the contexts that ended at the token before what followed them.
    let follow (token: int) =
        let mutable place = 0

        for index in 0 .. beforeLength - 1 do
            let context = before[index]
            let length = 1 + min longest nodes[context].Depth

            while nodes[path[place]].Depth < length do
                place <- place + 1

            let next = path[place]

            if nodes[next].Count >= nodes[context].NextCount then
                nodes[context].Next <- token
                nodes[context].NextCount <- nodes[next].Count
                nodes[context].NextNode <- next

    /// Places of a context after which something stands: nothing has followed the last token yet.
    let followed (node: int) = nodes[node].Count - (if nodes[node].End = count - 1 then 1 else 0)

    /// What stands where a text ends: no draft goes on after it.
    static member End = -1

    /// Tokens, the ends of texts included.
    member _.Count = count

    /// The tokens so far. They do not change, but tokens that come later may lie elsewhere.
    member _.Tokens: ReadOnlyMemory<int> = ReadOnlyMemory(text, 0, count)

    member _.Bytes =
        // A dictionary's entry is a key, a value, a hash and two links.
        4L * int64 text.Length + 28L * int64 nodes.Length + 28L * int64 children.Capacity

    member _.Append(token: int) : unit =
        if count = text.Length then
            Array.Resize(&text, 2 * count)

        text[count] <- token
        count <- count + 1
        read <- read + 1
        let swapped = before
        before <- path
        beforeLength <- pathLength
        path <- swapped
        pathLength <- 0
        grow ()
        follow token

    /// Ends a text: the contexts of the next one do not reach back into it.
    member this.Close() : unit =
        this.Append SuffixTree.End
        read <- 0
        pathLength <- 0

    /// The node of the first `length` tokens, read backwards, of a node's contexts.
    member private _.Cover(node: int, length: int) : int =
        let mutable node = node

        while nodes[nodes[node].Parent].Depth >= length do
            node <- nodes[node].Parent

        node

    /// The longest ending of the text so far that occurred before.
    member this.Ending: SuffixPlace =
        let mutable place = pathLength - 1

        while place >= 0 && nodes[path[place]].Count < 2 do
            place <- place - 1

        if place < 0 then
            { Node = 0; Length = 0 }
        else
            let length = min longest nodes[path[place]].Depth
            { Node = this.Cover(path[place], length); Length = length }

    /// The longest ending of any text that occurs in these with something after it.
    member _.Find(ending: ReadOnlySpan<int>) : SuffixPlace =
        let most = min longest ending.Length
        let mutable node, depth = 0, 0
        let mutable goesOn = true

        while goesOn && depth < most do
            let mutable child = 0

            if children.TryGetValue(key node ending[ending.Length - 1 - depth], &child) then
                let below = min most nodes[child].Depth
                depth <-
                    common ending (ending.Length - 1) (ReadOnlySpan text) nodes[child].End (depth + 1) below
                node <- child
                goesOn <- depth = nodes[child].Depth
            else
                goesOn <- false

        // Where it stands at the very end alone, a shorter one stands elsewhere too.
        while node > 0 && followed node = 0 do
            node <- nodes[node].Parent
            depth <- nodes[node].Depth

        { Node = node; Length = depth }

    /// What follows a place, most frequent first choice after choice: up to `most` tokens, with the share of the times that each
    /// followed, while the product of the shares is at least `least`.
    member this.Follow(place: SuffixPlace, most: int, least: float) : struct (int * float)[] =
        // Room is made with the first of them: most places are followed by nothing.
        let drafts = ResizeArray<struct (int * float)>()
        let mutable node, length, product = place.Node, place.Length, 1.0

        while length > 0 && drafts.Count < most do
            let times = followed node

            let share =
                if times = 0 || nodes[node].Next = SuffixTree.End then
                    0.0
                else
                    float nodes[node].NextCount / float times

            product <- product * share

            if share > 0.0 && product >= least then
                drafts.Add(struct (nodes[node].Next, share))
                length <- min longest (length + 1)
                node <- this.Cover(nodes[node].NextNode, length)
            else
                length <- 0

        drafts.ToArray()
