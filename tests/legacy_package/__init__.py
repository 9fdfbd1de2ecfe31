"""A package in Matterport's idiom on tf_keras, and checks of it that need a process of their own."""
